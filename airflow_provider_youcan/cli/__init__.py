"""The commands of ``python -m airflow_provider_youcan``."""
