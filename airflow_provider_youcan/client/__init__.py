"""YouCan's API without I/O: requests, the meaning of answers, and procedures of several requests."""
