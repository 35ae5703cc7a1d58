"""`python -m aircall_oauth` is the command `aircall-oauth`."""

from aircall_oauth.cli.main import main

if __name__ == "__main__":
    main()
