"""`python -m hpccarbon` is `hpccarbon`."""

from hpccarbon.cli import main

if __name__ == "__main__":
    main()
