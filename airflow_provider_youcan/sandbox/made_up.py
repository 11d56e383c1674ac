"""The made-up orders and statuses of a new shop: cash on delivery, in French and in Arabic."""

from __future__ import annotations

import json
import random
import uuid
from datetime import datetime
from typing import Any

from airflow_provider_youcan.orders import StatusContext

__all__ = ["make_order", "make_status_lists"]

_OWN_STATUSES = {
    StatusContext.GENERAL: {
        "confirmed": "Confirmée",
        "no-answer": "Pas de réponse",
        "postponed": "Reportée",
        "مؤكد": "مؤكد",
    },
    StatusContext.SHIPPING: {
        "out-for-delivery": "En cours de livraison",
        "returned": "Retournée",
        "تم التسليم": "تم التسليم",
    },
    StatusContext.PAYMENT: {"collected-by-courier": "Encaissé par le livreur"},
}
_NAMES = (
    "Fatima Zahra El Amrani",
    "Youssef Benali",
    "Khadija Ouazzani",
    "Mehdi Tazi",
    "أمينة العلوي",
    "محمد بن يوسف",
    "سارة الفاسي",
    "Amélie Rousseau",
    "Hélène Lefèvre",
    "Omar Haddad",
    "ليلى المنصوري",
    "Rachid Chraïbi",
)
_CITIES = ("Casablanca", "Rabat", "Fès", "Marrakech", "Tanger", "الدار البيضاء", "Agadir", "Tunis", "Alger", "وجدة")
_PRODUCTS = (
    ("Babouches en cuir", 180),
    ("Huile d'argan 100 ml", 120),
    ("Théière en inox", 240),
    ("قفطان مطرز", 690),
    ("Tapis berbère 80×150", 950),
    ("Savon noir", 45),
)
# The three statuses of an order, with weights: most orders are fresh, some on their way, a few done.
_STANDS = (
    (("open", "unfulfilled", "pending"), 50),
    (("confirmed", "unfulfilled", "pending"), 15),
    (("no-answer", "unfulfilled", "pending"), 8),
    (("processed", "shipped", "pending"), 15),
    (("closed", "fulfilled", "paid"), 8),
    (("canceled-by-seller", "canceled", "unpaid"), 4),
)


def make_status_lists() -> dict[StatusContext, list[dict[str, str]]]:
    """Return the lists of statuses of a new shop: the documented ones, and some of its own."""
    return {
        context: [
            *({"slug": slug, "name": slug.replace("-", " ").capitalize()} for slug in context.documented_slugs),
            *({"slug": slug, "name": name} for slug, name in _OWN_STATUSES[context].items()),
        ]
        for context in StatusContext
    }


def make_order(rng: random.Random, number: int, created_at: datetime) -> dict[str, Any]:
    """
    Return the row of a made-up order.

    :param rng: makes the choices; the same state makes the same order.
    :param number: its ref.
    :param created_at: when it came in.
    """
    stands, weights = zip(*_STANDS, strict=True)
    general, shipping, payment = rng.choices(stands, weights)[0]
    product, price = rng.choice(_PRODUCTS)
    quantity = rng.choice((1, 1, 1, 2, 3))
    name, city = rng.choice(_NAMES), rng.choice(_CITIES)
    return {
        "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "ref": f"{number:03d}",
        "created_at": created_at.isoformat(timespec="seconds"),
        "updated_at": created_at.isoformat(timespec="seconds"),
        "total": price * quantity,
        "currency": "MAD",
        "notes": rng.choice(("", "", "", "Appeler avant la livraison", "التوصيل بعد السادسة")),
        "gateway": "Cash on Delivery",
        "general_status": general,
        "shipping_status": shipping,
        "payment_status": payment,
        "customer": json.dumps(
            {
                "full_name": name,
                "phone": f"+2126{rng.randrange(10**8):08d}",
                "email": f"customer{number}@example.com",
                "city": city,
                "address": f"{rng.randrange(1, 200)}, rue {rng.randrange(1, 60)}, {city}",
            },
            ensure_ascii=False,
        ),
        "variants": json.dumps([{"name": product, "price": price, "quantity": quantity}], ensure_ascii=False),
    }
