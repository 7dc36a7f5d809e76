"""Where payloads go: the CRM's webhook or the outbound queue."""
