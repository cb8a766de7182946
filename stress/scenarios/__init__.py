"""The scenarios, a module each; a module is found by being here."""
