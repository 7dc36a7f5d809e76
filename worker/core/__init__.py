"""What crm-sync decides, without any I/O: standard library and pydantic only."""
