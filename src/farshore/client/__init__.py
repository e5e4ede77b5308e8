"""The typed REST client that every program uses to speak to the configuration server and to process servers."""
