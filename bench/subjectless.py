"""The service with a receiver that does not say what an event is about. `python -m bench.subjectless serve …`"""

from aircall_oauth.aircall import payloads
from aircall_oauth.cli.main import main

payloads.subject = lambda *_: None

if __name__ == "__main__":
    main()
