"""The sandbox's web application: YouCan's API, its OAuth, and the routes that only a sandbox has."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from airflow_provider_youcan.sandbox.api import Api
from airflow_provider_youcan.sandbox.control import Control
from airflow_provider_youcan.sandbox.errors import answer_http_exception, error_body
from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviours
from airflow_provider_youcan.sandbox.oauth import OAuth
from airflow_provider_youcan.sandbox.shop import Shop
from airflow_provider_youcan.sandbox.webhooks import Webhooks

__all__ = ["build_application", "error_body"]


def build_application(shop: Shop, misbehaviours: Misbehaviours, webhooks: Webhooks) -> Starlette:
    """
    Build the application of a shop.

    :param shop: its orders, statuses and tokens.
    :param misbehaviours: the rules in force.
    :param webhooks: its subscriptions.
    """
    routes = [*Api(shop, webhooks).routes, *OAuth(shop).routes, *Control(shop, misbehaviours).routes]
    application = Starlette(routes=routes, exception_handlers={HTTPException: answer_http_exception})
    # "/orders/" is no route of YouCan's, and must not turn into a redirect.
    application.router.redirect_slashes = False
    return application
