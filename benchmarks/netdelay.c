// Two network namespaces and a link between them with a delay, a rate and a queue, for kernels without sch_netem.
//
//     netdelay DELAY_US RATE_MBIT QUEUE_US CLIENT_ADDRESS SERVER_ADDRESS COUNTERS
//
// DELAY_US is one way. In each direction packets leave one after the other at the rate, those that would wait longer
// than QUEUE_US for that are dropped, and all arrive DELAY_US later. Each namespace has a TUN device `link` with its
// address (/24) and an MTU of 1500. TCP segments pass in the large units in which the kernel makes them (TSO), and are
// accounted as the packets that they would be on a wire.
//
// Prints one line, the numbers of its descriptors of the two namespaces (client, server), which are reached as
// /proc/PID/fd/N. Namespaces and link last as long as this process, which ends with its parent. COUNTERS is a file
// that it keeps `struct counters` in.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 1500, LARGEST = 65536 + sizeof(struct virtio_net_hdr), SLOTS = 1 << 16 };

// Of what the sender of each direction gave: bytes and packets that went over the wire, packets that were dropped, TCP
// connections that were opened and HTTP requests (without TLS) that were made. 0 is from the client to the server.
struct counters {
    struct {
        uint64_t bytes, packets, dropped, connections, requests;
    } direction[2];
};

struct packet {
    uint64_t due;
    size_t length;
    char *data;
};

// A ring: the receiver appends at `last`, the sender takes from `first`.
struct direction {
    int from, to, number;
    uint64_t wire_free;  // when the last accepted packet has left
    unsigned first, last;
    pthread_mutex_t mutex;
    pthread_cond_t filled;
    struct packet slots[SLOTS];
};

static uint64_t delay_ns, queue_ns;
static double ns_per_byte;
static struct counters *counters;
static struct direction directions[2];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void control(int socket, unsigned long request, struct ifreq *interface, const char *what) {
    if (ioctl(socket, request, interface) < 0) fail(what);
}

static void up(int socket, struct ifreq *interface) {
    control(socket, SIOCGIFFLAGS, interface, "SIOCGIFFLAGS");
    interface->ifr_flags |= IFF_UP | IFF_RUNNING;
    control(socket, SIOCSIFFLAGS, interface, "SIOCSIFFLAGS");
}

static void configure(const char *address) {
    struct ifreq interface = {.ifr_name = "lo"};
    int control_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control_socket < 0) fail("socket");
    up(control_socket, &interface);

    interface = (struct ifreq){.ifr_name = "link"};
    struct sockaddr_in *in = (struct sockaddr_in *)&interface.ifr_addr;
    in->sin_family = AF_INET;
    if (inet_pton(AF_INET, address, &in->sin_addr) != 1) {
        fprintf(stderr, "netdelay: no address: %s\n", address);
        exit(2);
    }
    control(control_socket, SIOCSIFADDR, &interface, "SIOCSIFADDR");
    in->sin_addr.s_addr = htonl(0xffffff00);
    control(control_socket, SIOCSIFNETMASK, &interface, "SIOCSIFNETMASK");
    interface.ifr_mtu = MTU;
    control(control_socket, SIOCSIFMTU, &interface, "SIOCSIFMTU");
    up(control_socket, &interface);
    close(control_socket);
}

// Make a namespace with its end of the link; return the device, and the namespace in `space`.
static int end(const char *address, int *space) {
    if (unshare(CLONE_NEWNET) < 0) fail("unshare");
    *space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (*space < 0) fail("/proc/self/ns/net");
    int device = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (device < 0) fail("/dev/net/tun");
    struct ifreq interface = {.ifr_name = "link", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    control(device, TUNSETIFF, &interface, "TUNSETIFF");
    if (ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0) fail("TUNSETOFFLOAD");
    configure(address);
    return device;
}

static int begins_request(const char *payload, size_t length) {
    static const char *const methods[] = {"GET ", "HEAD ", "PUT ", "POST ", "DELETE ", "PATCH "};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        size_t needed = strlen(methods[i]);
        if (length >= needed && !memcmp(payload, methods[i], needed)) return 1;
    }
    return 0;
}

// Count what a packet is; return how many bytes it is on the wire.
static size_t account(const char *data, size_t length, int number) {
    const struct virtio_net_hdr *offload = (const void *)data;
    const struct iphdr *ip = (const void *)(data + sizeof *offload);
    size_t packet = length - sizeof *offload, packets = 1, wire = packet;
    if (packet >= sizeof *ip && ip->version == 4 && ip->protocol == IPPROTO_TCP) {
        size_t start = ip->ihl * 4;
        const struct tcphdr *tcp = (const void *)((const char *)ip + start);
        if (packet >= start + sizeof *tcp && packet >= start + tcp->doff * 4) {
            size_t headers = start + tcp->doff * 4;
            if (offload->gso_type != VIRTIO_NET_HDR_GSO_NONE && offload->gso_size && packet > headers) {
                packets = (packet - headers + offload->gso_size - 1) / offload->gso_size;
                wire += (packets - 1) * headers;
            }
            if (tcp->syn && !tcp->ack) counters->direction[number].connections++;
            if (begins_request((const char *)ip + headers, packet - headers)) counters->direction[number].requests++;
        }
    }
    counters->direction[number].bytes += wire;
    counters->direction[number].packets += packets;
    return wire;
}

static void *receive(void *argument) {
    struct direction *way = argument;
    char *buffer = malloc(LARGEST);
    if (!buffer) fail("malloc");
    for (;;) {
        ssize_t length = read(way->from, buffer, LARGEST);
        if (length < 0 && errno == EINTR) continue;
        if (length < (ssize_t)sizeof(struct virtio_net_hdr)) fail("read");
        uint64_t time = now();
        pthread_mutex_lock(&way->mutex);
        if (way->last - way->first == SLOTS || way->wire_free > time + queue_ns) {
            counters->direction[way->number].dropped++;
        } else {
            size_t wire = account(buffer, length, way->number);
            if (way->wire_free < time) way->wire_free = time;
            way->wire_free += wire * ns_per_byte;
            struct packet *slot = &way->slots[way->last % SLOTS];
            slot->due = way->wire_free + delay_ns;
            slot->length = length;
            slot->data = malloc(length);
            if (!slot->data) fail("malloc");
            memcpy(slot->data, buffer, length);
            way->last++;
            pthread_cond_signal(&way->filled);
        }
        pthread_mutex_unlock(&way->mutex);
    }
    return NULL;
}

static void *deliver(void *argument) {
    struct direction *way = argument;
    prctl(PR_SET_TIMERSLACK, 1);
    for (;;) {
        pthread_mutex_lock(&way->mutex);
        while (way->first == way->last) pthread_cond_wait(&way->filled, &way->mutex);
        struct packet packet = way->slots[way->first % SLOTS];
        pthread_mutex_unlock(&way->mutex);
        struct timespec due = {packet.due / 1000000000, packet.due % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) continue;
        while (write(way->to, packet.data, packet.length) < 0 && errno == EINTR) continue;
        free(packet.data);
        pthread_mutex_lock(&way->mutex);
        way->first++;
        pthread_mutex_unlock(&way->mutex);
    }
    return NULL;
}

static void share_counters(const char *path) {
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *counters) < 0) fail(path);
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counters == MAP_FAILED) fail("mmap");
    close(file);
}

int main(int count, char **arguments) {
    if (count != 7) {
        fprintf(stderr, "usage: netdelay DELAY_US RATE_MBIT QUEUE_US CLIENT_ADDRESS SERVER_ADDRESS COUNTERS\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpriority(PRIO_PROCESS, 0, -19);  // a wire does not wait for a processor
    double rate = atof(arguments[2]);
    delay_ns = strtoull(arguments[1], NULL, 10) * 1000;
    queue_ns = strtoull(arguments[3], NULL, 10) * 1000;
    ns_per_byte = rate > 0 ? 8000.0 / rate : 0;
    share_counters(arguments[6]);

    int spaces[2], devices[2];
    for (int i = 0; i < 2; i++) devices[i] = end(arguments[4 + i], &spaces[i]);
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        struct direction *way = &directions[i];
        way->number = i;
        way->from = devices[i];
        way->to = devices[1 - i];
        pthread_mutex_init(&way->mutex, NULL);
        pthread_cond_init(&way->filled, NULL);
        if (pthread_create(&thread, NULL, receive, way) || pthread_create(&thread, NULL, deliver, way)) fail("thread");
    }
    printf("%d %d\n", spaces[0], spaces[1]);
    fflush(stdout);
    for (;;) pause();
}
