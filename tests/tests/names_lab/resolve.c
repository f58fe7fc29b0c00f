/* Prints the IPv4 addresses of a name, one a line, as this C library's getaddrinfo finds them. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {0}, *list, *one;
    char text[INET6_ADDRSTRLEN];
    int error;
    if (argc != 2) return 2;
    hints.ai_family = AF_UNSPEC; /* asks for A and AAAA, and a wrong answer to one spoils the other */
    hints.ai_socktype = SOCK_STREAM;
    error = getaddrinfo(argv[1], NULL, &hints, &list);
    if (error) {
        fprintf(stderr, "%s\n", gai_strerror(error));
        return 1;
    }
    for (one = list; one; one = one->ai_next) {
        void *address = one->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
                                                  : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        puts(inet_ntop(one->ai_family, address, text, sizeof text));
    }
    return 0;
}
