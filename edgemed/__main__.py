"""`python -m edgemed`: the same as the command `edgemed`."""

from edgemed.cli.app import main

if __name__ == "__main__":
    main()
