/* Prints the IPv4 addresses of a name, one a line, as c-ares finds them. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static int failed = 1;

static void found(void *unused, int status, int timeouts, struct ares_addrinfo *list) {
    char text[INET_ADDRSTRLEN];
    struct ares_addrinfo_node *one;
    (void)unused, (void)timeouts;
    if (status != ARES_SUCCESS) {
        fprintf(stderr, "%s\n", ares_strerror(status));
        return;
    }
    failed = 0;
    for (one = list->nodes; one; one = one->ai_next)
        if (one->ai_family == AF_INET)
            puts(inet_ntop(AF_INET, &((struct sockaddr_in *)one->ai_addr)->sin_addr, text, sizeof text));
    ares_freeaddrinfo(list);
}

int main(int argc, char **argv) {
    ares_channel channel;
    struct ares_addrinfo_hints hints = {0};
    if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel)) return 2;
    hints.ai_family = AF_UNSPEC;
    ares_getaddrinfo(channel, argv[1], NULL, &hints, found, NULL);
    for (;;) {
        fd_set readers, writers;
        struct timeval patience;
        int count;
        FD_ZERO(&readers);
        FD_ZERO(&writers);
        count = ares_fds(channel, &readers, &writers);
        if (!count) break;
        select(count, &readers, &writers, NULL, ares_timeout(channel, NULL, &patience));
        ares_process(channel, &readers, &writers);
    }
    return failed;
}
