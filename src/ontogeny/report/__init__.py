"""What people look at: figures and the static page made of them."""
