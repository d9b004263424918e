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

uint16_t _rte_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_prepare(port, queue, mbufs, count);
}

int dispatcher_thread_set_affinity(rte_cpuset_t *cores) {
    int r = rte_thread_set_affinity(cores);
    /* EAL's own main thread has an id already. */
    if (r == 0 && rte_lcore_id() == LCORE_ID_ANY)
        r = rte_thread_register();
    return r;
}

static uint64_t rx_offloads[RTE_MAX_ETHPORTS], tx_offloads[RTE_MAX_ETHPORTS];
static unsigned most_segments[RTE_MAX_ETHPORTS];
/* Written before EAL starts, and only read from then on. */
static char large_names[RTE_MAX_ETHPORTS][RTE_ETH_NAME_MAX_LEN];
static unsigned large_count;

void dispatcher_want_large(const char *name) {
    if (large_count < RTE_MAX_ETHPORTS)
        snprintf(large_names[large_count++], RTE_ETH_NAME_MAX_LEN, "%s", name);
}

static int large_wanted(uint16_t port) {
    char name[RTE_ETH_NAME_MAX_LEN];
    if (rte_eth_dev_get_name_by_port(port, name) != 0)
        return 0;
    for (unsigned i = 0; i < large_count; i++)
        if (strcmp(name, large_names[i]) == 0)
            return 1;
    return 0;
}

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
    struct rte_eth_conf plain = wanted;
    if (large_wanted(port)) {
        if (info.rx_offload_capa & LRO) {
            wanted.rxmode.offloads |= LRO | (info.rx_offload_capa & SCATTER);
            wanted.rxmode.max_lro_pkt_size = info.max_lro_pkt_size;
        }
        if ((info.tx_offload_capa & TSO) == TSO) {
            wanted.txmode.offloads |= TSO | (info.tx_offload_capa & TX_IP_CHECKSUM);
            /* It is for frames of one mbuf. */
            wanted.txmode.offloads &= ~CAPSULE_TX_MBUF_FAST_FREE;
        }
    }
    r = rte_eth_dev_configure(port, rx_queues, tx_queues, &wanted);
    /* What a port says that it can, it cannot always. */
    if (r != 0 && memcmp(&plain, &wanted, sizeof plain) != 0) {
        wanted = plain;
        r = rte_eth_dev_configure(port, rx_queues, tx_queues, &wanted);
    }
    if (r == 0 && port < RTE_MAX_ETHPORTS) {
        rx_offloads[port] = wanted.rxmode.offloads;
        tx_offloads[port] = wanted.txmode.offloads;
        most_segments[port] = info.tx_desc_lim.nb_seg_max;
    }
    return r;
}

int dispatcher_large(uint16_t port) {
    if (port >= RTE_MAX_ETHPORTS)
        return 0;
    int only_v4 = 0;
    struct rte_eth_dev_info info;
    /* It cuts by librte_gso, which knows TCP over IPv4 only, whatever it says. */
    if (rte_eth_dev_info_get(port, &info) == 0 && info.driver_name != NULL)
        only_v4 = strcmp(info.driver_name, "net_tap") == 0;
    return ((rx_offloads[port] & LRO) != 0) | ((tx_offloads[port] & TSO) == TSO) << 1 | only_v4 << 2;
}

unsigned dispatcher_most_segments(uint16_t port) {
    return port < RTE_MAX_ETHPORTS && most_segments[port] != 0 ? most_segments[port] : UINT16_MAX;
}

unsigned dispatcher_merged(const struct rte_mbuf *mbuf) {
    return mbuf->ol_flags & RTE_MBUF_F_RX_LRO ? mbuf->tso_segsz : 0;
}

void dispatcher_chain_read(const struct rte_mbuf *mbuf, uint8_t *to, size_t size) {
    for (; mbuf != NULL && size > 0; mbuf = mbuf->next) {
        size_t n = mbuf->data_len < size ? mbuf->data_len : size;
        memcpy(to, rte_pktmbuf_mtod(mbuf, uint8_t *), n);
        to += n;
        size -= n;
    }
}

struct rte_mbuf *dispatcher_chain_of(struct rte_mbuf **spare, unsigned spares, const uint8_t *bytes, size_t len) {
    struct rte_mbuf *first = spares > 0 ? spare[0] : NULL, *last = NULL;
    if (first == NULL)
        return NULL;
    first->pkt_len = len;
    for (unsigned i = 0; i < spares; i++) {
        struct rte_mbuf *m = spare[i];
        size_t room = rte_pktmbuf_tailroom(m), n = len < room ? len : room;
        memcpy(rte_pktmbuf_mtod(m, uint8_t *), bytes, n);
        m->data_len = n;
        bytes += n;
        len -= n;
        if (last != NULL)
            last->next = m;
        last = m;
    }
    first->nb_segs = spares;
    return len == 0 ? first : NULL;
}

int dispatcher_chain_rewrite(struct rte_mbuf *mbuf, int shift, size_t len, const uint8_t *bytes, size_t n) {
    if (mbuf->data_off + shift < 0 || mbuf->data_len - shift < 0 || mbuf->data_len - shift > UINT16_MAX)
        return -1;
    mbuf->data_off += shift;
    mbuf->data_len -= shift;
    size_t left = len;
    uint16_t segments = 0;
    for (struct rte_mbuf *m = mbuf; m != NULL; m = m->next) {
        segments++;
        size_t here = m->data_len < n ? m->data_len : n;
        memcpy(rte_pktmbuf_mtod(m, uint8_t *), bytes, here);
        bytes += here;
        n -= here;
        if (m->data_len >= left) {
            m->data_len = left;
            left = 0;
            if (m->next != NULL)
                rte_pktmbuf_free(m->next);
            m->next = NULL;
        }
        left -= left < m->data_len ? left : m->data_len;
    }
    mbuf->nb_segs = segments;
    mbuf->pkt_len = len;
    return left == 0 ? 0 : -1;
}

void dispatcher_leave(struct rte_mbuf *mbuf, uint16_t port, unsigned l2, unsigned l3, unsigned l4, unsigned segment, int v6) {
    mbuf->ol_flags = RTE_MBUF_F_TX_TCP_CKSUM | (v6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4);
    if (!v6 && port < RTE_MAX_ETHPORTS && (tx_offloads[port] & TX_IP_CHECKSUM))
        mbuf->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
    if (segment != 0)
        mbuf->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
    mbuf->tx_offload = 0;
    mbuf->l2_len = l2;
    mbuf->l3_len = l3;
    mbuf->l4_len = l4;
    mbuf->tso_segsz = segment;
}

int dispatcher_checks_tcp(uint16_t port) {
    return port < RTE_MAX_ETHPORTS && (rx_offloads[port] & CHECKSUMS_TCP) != 0;
}

unsigned dispatcher_rss(uint16_t port, uint8_t *key, unsigned *key_size, uint16_t *table, unsigned table_size) {
    struct rte_eth_rss_reta_entry64 groups[64];
    struct rte_eth_dev_info info;
    struct rte_eth_rss_conf conf = {.rss_key = key};
    if (rte_eth_dev_info_get(port, &info) != 0)
        return 0;
    unsigned n = info.reta_size;
    if (info.hash_key_size == 0 || info.hash_key_size > *key_size || n == 0 || n > table_size || n > 64 * 64 || n % 64 != 0)
        return 0;
    conf.rss_key_len = info.hash_key_size;
    memset(groups, 0, sizeof groups);
    for (unsigned i = 0; i < n / 64; i++)
        groups[i].mask = ~(uint64_t)0;
    if (rte_eth_dev_rss_hash_conf_get(port, &conf) != 0 || rte_eth_dev_rss_reta_query(port, groups, n) != 0)
        return 0;
    *key_size = info.hash_key_size;
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

int dispatcher_rss_set(uint16_t port, const uint8_t *key, unsigned key_size, const uint16_t *table, unsigned entries) {
    struct rte_eth_rss_reta_entry64 groups[64];
    struct rte_eth_rss_conf conf = {.rss_key = NULL};
    uint8_t copy[64];
    if (entries == 0 || entries > 64 * 64 || entries % 64 != 0 || key_size > sizeof copy)
        return -EINVAL;
    memset(groups, 0, sizeof groups);
    for (unsigned i = 0; i < entries; i++) {
        groups[i / 64].mask = ~(uint64_t)0;
        groups[i / 64].reta[i % 64] = table[i];
    }
    /* What is hashed stays as it is. */
    int r = rte_eth_dev_rss_hash_conf_get(port, &conf);
    if (r != 0)
        return r;
    memcpy(copy, key, key_size);
    conf.rss_key = copy;
    conf.rss_key_len = key_size;
    r = rte_eth_dev_rss_hash_update(port, &conf);
    return r != 0 ? r : rte_eth_dev_rss_reta_update(port, groups, entries);
}

int dispatcher_attach(const char *device) { return rte_dev_probe(device); }

int dispatcher_detach(uint16_t port) {
    struct rte_eth_dev_info info;
    int r = rte_eth_dev_info_get(port, &info);
    if (r != 0)
        return r;
    rte_eth_dev_stop(port);
    rte_eth_dev_close(port);
    return rte_dev_remove(info.device);
}

int dispatcher_iova_is_va(void) { return rte_eal_iova_mode() == RTE_IOVA_VA; }

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

void dispatcher_log_forget(void) {
    pthread_mutex_lock(&log_lock);
    log_len = 0;
    pthread_mutex_unlock(&log_lock);
}
