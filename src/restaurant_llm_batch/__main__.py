"""Entry point of ``python -m restaurant_llm_batch``: the command line."""

from .cli import main

if __name__ == "__main__":
    main()
