"""`python -P -m site_agent`: the command line `fedmepd-agent`."""

from site_agent.cli import main

if __name__ == "__main__":
    main()
