"""`python -m secbatch`, for where the `secbatch` command is not on the PATH."""

from secbatch.cli.main import main

if __name__ == "__main__":
    main()
