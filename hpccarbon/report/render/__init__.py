"""Turns finished figures into text, pages and files. Computes none of them."""
