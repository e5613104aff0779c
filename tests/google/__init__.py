"""Google's hosts on this machine, for programs that take no other address."""
