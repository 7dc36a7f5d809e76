"""What `crm-sync` can be told to do: one module a subcommand."""
