"""Language scenes: a table with several candidates that only the instruction tells apart."""
