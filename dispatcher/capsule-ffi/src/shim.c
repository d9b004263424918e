#include "compat.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* struct rte_mbuf in lib.rs says the same. */
#define AT(field, offset) _Static_assert(offsetof(struct rte_mbuf, field) == offset, "rte_mbuf." #field)
AT(buf_addr, 0);
AT(data_off, 16);
AT(refcnt, 18);
AT(nb_segs, 20);
AT(port, 22);
AT(ol_flags, 24);
AT(packet_type, 32);
AT(pkt_len, 36);
AT(data_len, 40);
AT(vlan_tci, 42);
AT(vlan_tci_outer, 52);
AT(buf_len, 54);
AT(pool, 56);
_Static_assert(sizeof(struct rte_mbuf) == 128, "rte_mbuf");

int _rte_errno(void) { return rte_errno; }

struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

void _rte_pktmbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned count) {
    rte_mempool_put_bulk(pool, objects, count);
}

uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, mbufs, count);
}

int dispatcher_thread_set_affinity(rte_cpuset_t *cores) {
    int r = rte_thread_set_affinity(cores);
    /* EAL's own main thread has an id already. */
    if (r == 0 && rte_lcore_id() == LCORE_ID_ANY)
        r = rte_thread_register();
    return r;
}

static uint64_t rx_offloads[RTE_MAX_ETHPORTS];

int dispatcher_eth_dev_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, const struct rte_eth_conf *conf) {
    struct rte_eth_conf wanted = *conf;
    struct rte_eth_dev_info info;
    int r = rte_eth_dev_info_get(port, &info);
    if (r != 0)
        return r;
    wanted.rxmode.offloads |= info.rx_offload_capa & CHECKSUMS;
    /* RSS with nothing to hash by is refused by cards that have several queues and no RSS (virtio). Which queue gets what is
       then their own affair. */
    if (wanted.rxmode.mq_mode == RTE_ETH_MQ_RX_RSS && wanted.rx_adv_conf.rss_conf.rss_hf == 0)
        wanted.rxmode.mq_mode = RTE_ETH_MQ_RX_NONE;
    r = rte_eth_dev_configure(port, rx_queues, tx_queues, &wanted);
    if (r == 0 && port < RTE_MAX_ETHPORTS)
        rx_offloads[port] = wanted.rxmode.offloads;
    return r;
}

int dispatcher_checks_tcp(uint16_t port) {
    return port < RTE_MAX_ETHPORTS && (rx_offloads[port] & CHECKSUMS_TCP) != 0;
}

unsigned dispatcher_rss(uint16_t port, uint8_t *key, unsigned key_size, uint16_t *table, unsigned table_size) {
    struct rte_eth_rss_reta_entry64 groups[64];
    struct rte_eth_dev_info info;
    struct rte_eth_rss_conf conf = {.rss_key = key};
    if (rte_eth_dev_info_get(port, &info) != 0)
        return 0;
    unsigned n = info.reta_size;
    if (info.hash_key_size == 0 || info.hash_key_size > key_size || n == 0 || n > table_size || n > 64 * 64 || n % 64 != 0)
        return 0;
    conf.rss_key_len = info.hash_key_size;
    memset(groups, 0, sizeof groups);
    for (unsigned i = 0; i < n / 64; i++)
        groups[i].mask = ~(uint64_t)0;
    if (rte_eth_dev_rss_hash_conf_get(port, &conf) != 0 || rte_eth_dev_rss_reta_query(port, groups, n) != 0)
        return 0;
    for (unsigned i = 0; i < n; i++)
        table[i] = groups[i / 64].reta[i % 64];
    return n;
}

int dispatcher_rss_tcp(uint16_t port) {
    struct rte_eth_rss_conf conf = {.rss_key = NULL};
    if (rte_eth_dev_rss_hash_conf_get(port, &conf) != 0)
        return 0;
    return ((conf.rss_hf & RSS_TCP4) != 0) | ((conf.rss_hf & RSS_TCP6) != 0) << 1;
}

int dispatcher_link_up(uint16_t port) {
    struct rte_eth_link link;
    memset(&link, 0, sizeof link);
    int r = rte_eth_link_get_nowait(port, &link);
    return r < 0 ? r : link.link_status == RTE_ETH_LINK_UP;
}

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[4096];
static size_t log_len;

static ssize_t log_write(void *cookie, const char *text, size_t size) {
    (void)cookie;
    size_t all = size;
    pthread_mutex_lock(&log_lock);
    if (size > sizeof log_text) {
        text += size - sizeof log_text;
        size = sizeof log_text;
    }
    if (log_len + size > sizeof log_text) {
        size_t gone = log_len + size - sizeof log_text;
        memmove(log_text, log_text + gone, log_len - gone);
        log_len -= gone;
    }
    memcpy(log_text + log_len, text, size);
    log_len += size;
    pthread_mutex_unlock(&log_lock);
    return (ssize_t)all;
}

int dispatcher_log_keep(void) {
    cookie_io_functions_t io = {.write = log_write};
    FILE *stream = fopencookie(NULL, "w", io);
    if (stream == NULL)
        return -1;
    setlinebuf(stream);
    return rte_openlog_stream(stream);
}

size_t dispatcher_log_read(char *to, size_t size) {
    if (size == 0)
        return 0;
    pthread_mutex_lock(&log_lock);
    size_t n = log_len < size - 1 ? log_len : size - 1;
    memcpy(to, log_text + (log_len - n), n);
    pthread_mutex_unlock(&log_lock);
    to[n] = 0;
    return n;
}
