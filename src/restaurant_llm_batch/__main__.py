"""``python -m restaurant_llm_batch``."""

from .cli import main

if __name__ == "__main__":
    main()
