# Prints the IPv4 addresses of a name, one a line, as dnspython finds them.
import sys

import dns.resolver

for record in dns.resolver.resolve(sys.argv[1], "A"):
    print(record)
