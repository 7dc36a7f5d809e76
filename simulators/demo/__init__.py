"""The demonstration: the whole worker at work, with a broker, a dialer and a CRM of its own."""
