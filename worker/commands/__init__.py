"""The subcommands of `crm-sync`: one module each."""
