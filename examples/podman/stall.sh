#!/bin/sh
# Two apps in two private networks: `sh stall.sh up` starts their containers, `sh stall.sh down` removes them. As root.
#
#   browser ──▶ web ══ shop ══ api ══ bank ══ ledger
#                       ║
#                       db
#
# `web` answers a browser and is in `shop` alone; `api` is in both networks. What they serve is that of ../compose.
set -eu

files=$(cd "$(dirname "$0")/../compose" && pwd)
image=${IMAGE:-docker.io/library/busybox:1.36}
database=${DB_IMAGE:-docker.io/library/redis:7-alpine}

# serve NAME PORT OPTION...: a container that serves the files of NAME
serve() {
	name=$1 port=$2
	shift 2
	podman run --detach --name "stall-$name" --volume "$files/$name:/srv:ro" "$@" \
		"$image" busybox httpd -f -p "$port" -h /srv
}

case ${1-} in
up)
	for network in shop bank; do
		podman network exists "$network" || podman network create --driver privnet "$network"
	done
	podman run --detach --name stall-db --network shop:app=stall,type=db "$database" redis-server
	serve ledger 9000 --network bank:app=bank,type=ledger
	serve api 8000 --network shop:app=stall,type=api,port.http=8000 --network bank:app=stall,type=api
	# Podman publishes ports of its own networks only.
	serve web 80 --network podman --network shop:app=stall,type=web --publish 8080:80
	;;
down)
	podman rm --force --time 1 stall-web stall-api stall-ledger stall-db
	podman network rm shop bank
	;;
*)
	echo "usage: sh stall.sh up|down" >&2
	exit 2
	;;
esac
