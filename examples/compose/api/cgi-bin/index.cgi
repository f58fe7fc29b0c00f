#!/bin/busybox sh
# Counts the visits in the database of this app, and asks the other app for its balance.
visits=$(printf 'INCR visits\r\n' | busybox nc -w 1 db 6379 | busybox tr -d ':\r')
balance=$(busybox timeout 2 busybox wget -q -O - http://ledger.bank:9000/balance)
printf 'Content-Type: text/plain\r\n\r\n'
echo "visit ${visits:-unknown}, balance ${balance:-unknown}"
