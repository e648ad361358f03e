"""``python -m bitexport``."""

from bitexport.cli import main

if __name__ == "__main__":
    main()
