"""crm-sync: carries VICIdial's call and agent events from RabbitMQ to a CRM."""

__version__ = "0.1.0"
