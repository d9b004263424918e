/* What is bound, and every difference between versions of DPDK. The first line of shim.c, and the header of bindgen. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* else rte_lcore.h has no rte_cpuset_t */
#endif
#include <stddef.h>
#include <stdint.h>
#include <sched.h>
#include <rte_version.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* Constants, whose names have changed with 21.11. As variables, because bindgen does not see through the macros. */
#if RTE_VERSION >= RTE_VERSION_NUM(21, 11, 0, 0)
static const uint64_t CAPSULE_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t CAPSULE_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t CAPSULE_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t CAPSULE_RSS_SCTP = RTE_ETH_RSS_SCTP;
static const uint64_t CAPSULE_TX_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint32_t CAPSULE_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t CAPSULE_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint64_t CAPSULE_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t CAPSULE_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t CAPSULE_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t CAPSULE_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t CAPSULE_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t CAPSULE_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t CAPSULE_RX_LRO = RTE_MBUF_F_RX_LRO;
#define RSS_TCP4 RTE_ETH_RSS_NONFRAG_IPV4_TCP
#define RSS_TCP6 RTE_ETH_RSS_NONFRAG_IPV6_TCP
#define CHECKSUMS_TCP RTE_ETH_RX_OFFLOAD_TCP_CKSUM
#define LRO RTE_ETH_RX_OFFLOAD_TCP_LRO
#define SCATTER RTE_ETH_RX_OFFLOAD_SCATTER
#define TSO (RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_MULTI_SEGS)
#define TX_IP_CHECKSUM RTE_ETH_TX_OFFLOAD_IPV4_CKSUM
#define CHECKSUMS (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM)
#else
#error "DPDK 21.11 or later is needed"
#endif
static const uint32_t CAPSULE_MBUF_BUF_SIZE = RTE_MBUF_DEFAULT_BUF_SIZE;
static const uint32_t CAPSULE_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;

/* What DPDK has as inline functions or macros; see there for what they do. */
int _rte_errno(void);
struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool);
void _rte_pktmbuf_free(struct rte_mbuf *mbuf);
int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count);
void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned count);
uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

uint16_t _rte_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* Binds this thread to cores, and makes it one that DPDK knows: others bypass the mempools' caches. */
int dispatcher_thread_set_affinity(rte_cpuset_t *cores);

/* Configures a port as asked, and to check what it receives as far as it can. */
int dispatcher_eth_dev_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, const struct rte_eth_conf *conf);
/* To be said before: ports by this name are to merge what they receive (LRO) and to cut what they send (TSO), if they can. */
void dispatcher_want_large(const char *name);
/* What came of it: 1 it merges, 2 it cuts and completes TCP checksums, 4 but cuts IPv4 only. */
int dispatcher_large(uint16_t port);
/* Most mbufs of a frame that is to be cut. */
unsigned dispatcher_most_segments(uint16_t port);
/* Payload of the segments that a card has merged into a frame; 0 when it does not tell. */
unsigned dispatcher_merged(const struct rte_mbuf *mbuf);
/* Copies a frame of any number of mbufs, as many bytes as there is room for. */
void dispatcher_chain_read(const struct rte_mbuf *mbuf, uint8_t *to, size_t size);
/* An mbuf chain with a copy of these bytes; none when there are too few mbufs. */
struct rte_mbuf *dispatcher_chain_of(struct rte_mbuf **spare, unsigned spares, const uint8_t *bytes, size_t len);
/* Lets a frame begin `shift` bytes later (earlier, if negative) and be `len` bytes long, the first `n` of which are these. 0, or -1 and the frame is
   of no use any more. */
int dispatcher_chain_rewrite(struct rte_mbuf *mbuf, int shift, size_t len, const uint8_t *bytes, size_t n);
/* Has the port complete the TCP checksum of what is sent and, if `segment` is not 0, cut it into segments of so much payload. */
void dispatcher_leave(struct rte_mbuf *mbuf, uint16_t port, unsigned l2, unsigned l3, unsigned l4, unsigned segment, int v6);

/* Whether it checks TCP checksums. */
int dispatcher_checks_tcp(uint16_t port);

/* What a port's RSS does: its key, as long as told then, and the queue of each entry of its table, which has as many as returned; 0 when it does not tell. */
unsigned dispatcher_rss(uint16_t port, uint8_t *key, unsigned *key_size, uint16_t *table, unsigned table_size);
/* Whether it hashes ports of TCP over IPv4 (1) and IPv6 (2). */
int dispatcher_rss_tcp(uint16_t port);

/* Has it do so from now on. 0, or why not. */
int dispatcher_rss_set(uint16_t port, const uint8_t *key, unsigned key_size, const uint16_t *table, unsigned entries);

/* Finds a device that EAL was not told of, with its arguments behind commas. 0, or why not. */
int dispatcher_attach(const char *device);
/* Stops a port, closes it, and has EAL forget its device: another process can have it. 0, or why not. */
int dispatcher_detach(uint16_t port);
/* Cards are told addresses of the process's, not the machine's. */
int dispatcher_iova_is_va(void);

/* 1 up, 0 down, negative when the port does not say. */
int dispatcher_link_up(uint16_t port);

/* From now on EAL's and the drivers' log goes to memory of a fixed size, which keeps what was said last. */
int dispatcher_log_keep(void);
/* Copies at most size - 1 bytes of it, oldest first, and a zero: how many. */
size_t dispatcher_log_read(char *to, size_t size);
/* From now on it keeps what is said from now on. */
void dispatcher_log_forget(void);
