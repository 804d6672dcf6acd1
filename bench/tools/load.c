/* Makes load that Python is too slow for, and answers it. Built and run by bench/dataplane.py; one JSON line each.
 *
 *   load serve PORT                                       TCP: 64 bytes in, 64 bytes out, close; UDP: echo, or count
 *   load connect IP PORT SOURCE SOURCES AT_ONCE SECONDS   short connections, so many at once
 *   load flood IP PORT SOURCE SOURCES FLOWS SECONDS       64-byte datagrams, as fast as they go; the server counts
 *   load echo IP PORT SOURCE SOURCES AT_ONCE SECONDS      64-byte datagrams there and back, so many under way
 *
 * SOURCE is the first of SOURCES addresses that follow each other: one address has only 64 thousand ports.
 * The first byte of a datagram says what it wants: 'C' count me, 'E' send me back, '?' say how many you counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, BATCH = 32, EVENTS = 256, DESCRIPTORS = 65536, SAMPLES = 1 << 21 };

static float samples[SAMPLES];
static size_t sampled;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void check(long result, const char *what)
{
    if (result < 0)
        fail(what);
}

static struct sockaddr_in address(const char *ip, int port, int offset)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, ip, &a.sin_addr) != 1) {
        fprintf(stderr, "%s is no IPv4 address\n", ip);
        exit(1);
    }
    a.sin_addr.s_addr = htonl(ntohl(a.sin_addr.s_addr) + offset);
    return a;
}

static void set(int fd, int level, int name, int value)
{
    check(setsockopt(fd, level, name, &value, sizeof value), "setsockopt");
}

static void watch(int poll, int fd, int operation, int events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    check(epoll_ctl(poll, operation, fd, &event), "epoll_ctl");
}

static void sample(double seconds)
{
    if (sampled < SAMPLES)
        samples[sampled++] = (float)(seconds * 1e6);
}

static int ascending(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static void report(long done, long failed, double seconds)
{
    qsort(samples, sampled, sizeof *samples, ascending);
    printf("{\"done\": %ld, \"failed\": %ld, \"seconds\": %.3f, \"p50_us\": %.0f, \"p99_us\": %.0f}\n", done, failed,
           seconds, sampled ? samples[sampled / 2] : 0, sampled ? samples[sampled * 99 / 100] : 0);
}

/* --- the server ----------------------------------------------------------------------------------------------------*/

static void answer_datagrams(int fd)
{
    static char buffers[BATCH][2048], controls[BATCH][128];
    static long counted;
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_in from[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){buffers[i], sizeof buffers[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &parts[i],
                                              .msg_iovlen = 1, .msg_control = controls[i], .msg_controllen = sizeof controls[i]};
    }
    int count = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++) {
        struct cmsghdr *control = CMSG_FIRSTHDR(&messages[i].msg_hdr);
        if (buffers[i][0] == 'C') {
            counted++;
            continue;
        }
        parts[i].iov_len = buffers[i][0] == '?' ? (size_t)sprintf(buffers[i], "%ld", counted) : messages[i].msg_len;
        if (control) /* answer from the address that was asked, by whatever device */
            ((struct in_pktinfo *)CMSG_DATA(control))->ipi_ifindex = 0;
        if (sendmsg(fd, &messages[i].msg_hdr, MSG_DONTWAIT) < 0 && errno != EAGAIN)
            perror("sendmsg");
    }
}

static void serve(int port)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int poll = epoll_create1(0), tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    char buffer[4096];
    set(tcp, SOL_SOCKET, SO_REUSEADDR, 1);
    set(udp, IPPROTO_IP, IP_PKTINFO, 1);
    set(udp, SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20);
    check(bind(tcp, (void *)&any, sizeof any), "bind tcp");
    check(bind(udp, (void *)&any, sizeof any), "bind udp");
    check(listen(tcp, 16384), "listen");
    watch(poll, tcp, EPOLL_CTL_ADD, EPOLLIN);
    watch(poll, udp, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == udp) {
                answer_datagrams(udp);
            } else if (fd == tcp) {
                for (int made; (made = accept4(tcp, NULL, NULL, SOCK_NONBLOCK)) >= 0;)
                    watch(poll, made, EPOLL_CTL_ADD, EPOLLIN);
            } else {
                ssize_t got = read(fd, buffer, sizeof buffer);
                if (got < 0 && errno == EAGAIN)
                    continue;
                if (got > 0 && write(fd, buffer, SIZE) != SIZE)
                    perror("write");
                close(fd);
            }
        }
    }
}

/* --- the clients ---------------------------------------------------------------------------------------------------*/

static int open_socket(int type, const char *source, int sources, int number)
{
    int fd = socket(AF_INET, type, 0);
    struct sockaddr_in from = address(source, 0, number % sources);
    check(fd, "socket");
    if (type & SOCK_STREAM && !(type & SOCK_DGRAM))
        set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    check(bind(fd, (void *)&from, sizeof from), "bind");
    return fd;
}

static void connect_and_close(struct sockaddr_in to, const char *source, int sources, int at_once, double seconds)
{
    static double begun[DESCRIPTORS];
    static char heard[DESCRIPTORS], buffer[4096];
    int poll = epoll_create1(0), open = 0, number = 0;
    long done = 0, failed = 0;
    double start = now();
    while (now() < start + seconds) {
        struct epoll_event events[EVENTS];
        for (; open < at_once; open++) {
            int fd = open_socket(SOCK_STREAM | SOCK_NONBLOCK, source, sources, number++);
            if (connect(fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS)
                fail("connect");
            begun[fd] = now();
            heard[fd] = 0;
            watch(poll, fd, EPOLL_CTL_ADD, EPOLLOUT);
        }
        int count = epoll_wait(poll, events, EVENTS, 50);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            ssize_t got = 0;
            if (events[i].events & EPOLLOUT && write(fd, buffer, SIZE) == SIZE) {
                watch(poll, fd, EPOLL_CTL_MOD, EPOLLIN);
                continue;
            }
            if (events[i].events & EPOLLIN && (got = read(fd, buffer, sizeof buffer)) > 0) {
                heard[fd] = 1;
                continue;
            }
            if (got < 0 && errno == EAGAIN)
                continue;
            if (heard[fd] && got == 0) {
                done++;
                sample(now() - begun[fd]);
            } else {
                failed++;
            }
            close(fd);
            open--;
        }
    }
    report(done, failed, now() - start);
}

static long ask_count(int fd)
{
    char text[32] = {0};
    struct timeval wait = {.tv_sec = 0, .tv_usec = 200000};
    check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait), "setsockopt");
    for (int attempt = 0; attempt < 20; attempt++)
        if (send(fd, "?", 1, 0) == 1 && recv(fd, text, sizeof text - 1, 0) > 0)
            return atol(text);
    fail("nobody says how many datagrams arrived");
    return -1;
}

static int *open_flows(struct sockaddr_in to, const char *source, int sources, int flows)
{
    int *fds = calloc(flows, sizeof *fds);
    for (int i = 0; i < flows; i++) {
        fds[i] = open_socket(SOCK_DGRAM, source, sources, i);
        check(connect(fds[i], (void *)&to, sizeof to), "connect");
    }
    return fds;
}

/* All flows must lead to one server process, or its count is not all of it. */
static void flood(struct sockaddr_in to, const char *source, int sources, int flows, double seconds)
{
    int *fds = open_flows(to, source, sources, flows);
    char buffer[SIZE] = "C";
    struct iovec part = {buffer, SIZE};
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    long before = ask_count(fds[0]), sent = 0;
    double start = now();
    for (int turn = 0; now() < start + seconds; turn++) {
        int count = sendmmsg(fds[turn % flows], messages, BATCH, 0);
        sent += count > 0 ? count : 0;
    }
    double elapsed = now() - start;
    usleep(200000);
    long arrived = ask_count(fds[0]) - before;
    report(arrived, sent - arrived, elapsed);
}

static void echo(struct sockaddr_in to, const char *source, int sources, int at_once, double seconds)
{
    int *fds = open_flows(to, source, sources, at_once), poll = epoll_create1(0);
    double *sent = calloc(DESCRIPTORS, sizeof *sent), start = now(), swept = start;
    char buffer[SIZE] = "E";
    long done = 0, lost = 0;
    for (int i = 0; i < at_once; i++) {
        watch(poll, fds[i], EPOLL_CTL_ADD, EPOLLIN);
        sent[fds[i]] = now();
        check(send(fds[i], buffer, SIZE, 0), "send");
    }
    while (now() < start + seconds) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poll, events, EVENTS, 50);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (recv(fd, buffer, SIZE, MSG_DONTWAIT) > 0) {
                done++;
                sample(now() - sent[fd]);
            }
            buffer[0] = 'E';
            sent[fd] = now();
            if (send(fd, buffer, SIZE, 0) < 0)
                lost++;
        }
        if (now() > swept + 0.1) /* whoever has waited for long lost its datagram: ask again */
            for (int i = (swept = now(), 0); i < at_once; i++)
                if (sent[fds[i]] < swept - 0.2) {
                    lost++;
                    sent[fds[i]] = swept;
                    if (send(fds[i], buffer, SIZE, 0) < 0)
                        lost++;
                }
    }
    report(done, lost, now() - start);
}

int main(int count, char **words)
{
    if (count == 3 && !strcmp(words[1], "serve"))
        serve(atoi(words[2]));
    if (count != 8) {
        fprintf(stderr, "usage: load serve PORT | connect|flood|echo IP PORT SOURCE SOURCES NUMBER SECONDS\n");
        return 2;
    }
    struct sockaddr_in to = address(words[2], atoi(words[3]), 0);
    int sources = atoi(words[5]), number = atoi(words[6]);
    double seconds = atof(words[7]);
    if (!strcmp(words[1], "connect"))
        connect_and_close(to, words[4], sources, number, seconds);
    else if (!strcmp(words[1], "flood"))
        flood(to, words[4], sources, number, seconds);
    else
        echo(to, words[4], sources, number, seconds);
    return 0;
}
