"""Who gets which bytes."""
