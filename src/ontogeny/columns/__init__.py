"""The columns of every table, by what fills them."""
