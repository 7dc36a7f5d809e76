"""Writing into a CRM by its own API: presets as data, and the one engine that carries them out."""
