"""What every server needs and no service owns: start and stop, errors, health, admission, shared
conversions."""
