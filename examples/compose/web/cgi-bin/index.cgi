#!/bin/busybox sh
# The page: what the api says, and whether this container reaches the ledger, in whose network it is not.
said=$(busybox timeout 5 busybox wget -q -O - http://api:8000/)
ledger=$(busybox timeout 2 busybox wget -q -O - http://ledger.bank:9000/balance)
printf 'Content-Type: text/html\r\n\r\n'
echo "<!doctype html><title>stall</title><h1>stall</h1>"
echo "<p>the api says: ${said:-nothing}</p>"
echo "<p>the ledger says to web: ${ledger:-nothing, as it should}</p>"
