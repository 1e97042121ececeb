"""``python -m twinact``, and so ``accelerate launch -m twinact``."""

from twinact.cli import main

if __name__ == "__main__":
    main()
