// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Sees every write to the protected disks when the block layer has taken it and before the disk gets it, and keeps it:
 * in data mode with its bytes, in one ring for all disks; in bitmap mode as dirty bits. docs/decisions/2026-11-22-capture-order.md argues why the ring's order
 * is right and why each write ends in exactly one of the two places; 2026-11-22-capture-layout.md beside it has the
 * layouts that user space (src/farshore/mobility/capture/) shares.
 *
 * Rules that everything below keeps:
 *  - A write that cannot be put into the ring whole is put into the bitmap whole, and from that moment on the program
 *    is in bitmap mode. Only user space leaves bitmap mode.
 *  - A program run reads the state word once and acts on that value to its end, so that user space, having changed it
 *    and waited for an RCU grace period, knows that nobody acts on the old one any more.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/*
 * Built twice. With BITMAP_ONLY the program has no data mode and needs neither bpf_loop nor a ring that is used: it is
 * for kernels from 5.12 to 5.16, and for those that refuse the whole one. User space never sets data mode in it.
 */
#define BLOCK 4096
#define SECTOR_SHIFT 9
#define OP_MASK 0xff
#define MAX_DISKS 64
#define MAX_EXCLUSIONS 2048
#define MAX_FLYING 65536
#define PLACE_BITS 14
#define MAX_CHANGED 65536
#ifdef BITMAP_ONLY
/* The verifier walks through such loops step by step. 2048 words are 512 MiB at 4 KiB a bit. */
#define MAX_WORDS_MARKED 2048
#define MAX_MERGED 1024
#else
#define MAX_WORDS_MARKED (1 << 20)
#define MAX_MERGED 65536
#endif
/* More than any bio has: 2^20 blocks (4 GiB - 512), in up to 65,535 segments, each with a step of its own. */
#define MAX_STEPS (8 << 20)
#define PAGE_SHIFT 12
#define BLOCKS_IN_CHUNK 16
/* struct page is that long wherever there is data mode: see learn_from_symbols. */
#define PAGE_STRUCT_SHIFT 6

/* State word: bit 0 data mode, bit 1 bitmap slot in use, bits 8.. generation. */
#define STATE_DATA 1ULL
#define STATE_SLOT(state) (((state) >> 1) & 1)

enum kind { KIND_WRITE = 1, KIND_ZERO = 2, KIND_DISCARD = 3, KIND_FLUSH = 4 };
enum flag { FLAG_FUA = 1, FLAG_PREFLUSH = 2 };
/* 0 and 5 are user space's. */
enum cause {
	CAUSE_RING_FULL = 1,
	CAUSE_READ_FAULT = 2,
	CAUSE_NO_ADDRESS = 3,
	CAUSE_UNKNOWN_OP = 4,
	CAUSE_WRITE_FAILED = 6,
	CAUSE_UNSEEN = 7,
	CAUSE_JOINT_TAKEN = 8,
	CAUSE_COMMAND = 9,
};

struct record {
	u64 sector; /* of the whole disk, 512 bytes each */
	u64 time;   /* CLOCK_MONOTONIC, ns */
	u32 length; /* bytes */
	u16 disk;
	u8 kind;
	u8 flags;
	u8 data[BLOCK];
};

struct control {
	u64 state;
	u64 address;	   /* K: address of a page's bytes = (struct page address << 6) + K; 0 while unknown */
	u64 address_source;	   /* 1 kernel symbols, 2 a buffer head */
	u64 cause;	   /* why the program went to bitmap mode by itself */
	u64 since;	   /* when it did; CLOCK_MONOTONIC, ns */
	u64 slot_words;	   /* u64 words of one bitmap slot; set before attaching */
	u64 whole[2];	   /* by slot: disks, one bit each, all of whose blocks count as dirty */
	u64 strangers;	   /* writes completed that were not taken down: of before the program was attached */
	u64 untracked;	   /* writes that found no room in `flying` */
	u64 lost;	   /* entries of `flying` whose completion was not seen */
	u64 changed;	   /* nonzero: there may be something in the map `changed` */
	u64 queued;	   /* nonzero: there may be a disk whose writes are taken down where they are queued */
	u64 displaced;	   /* how many flights are in the map `flying`; never too low */
	u64 command;	   /* the newest command counted in `commands`: enum protocol << 8 | its first byte */
	u64 nvme;	   /* disks, one bit each, that are NVMe namespaces */
	u64 by_paths;	   /* those of them whose requests are those of other disks: of their paths */
};

struct disk {
	u32 number; /* what records carry */
	u32 index;  /* 0 .. MAX_DISKS - 1: the place in `counters` and in `whole` */
	u64 first_word;
	u64 words;
	u32 shift; /* log2 of the sectors that one bit stands for */
	u32 first_exclusion;
	u32 exclusions;
	u32 by_request; /* the disk works on requests (blk-mq): see takes_request */
	u64 refusing; /* the kinds of which the driver refused the last one: see refusable_kind; 0 in a new entry */
};

struct exclusion {
	u64 start; /* sectors; ends are exclusive; sorted and disjoint within a disk */
	u64 end;
};

struct counters {
	u64 bios;
	u64 written;	/* bytes of writes and write-zeroes taken */
	u64 discarded;	/* bytes of discards taken */
	u64 captured;	/* of both, bytes put into the ring */
	u64 mapped;	/* of both, bytes put into the bitmap */
	u64 excluded;	/* of both, bytes left out on purpose */
	u64 flushes;
	u64 written_done;	/* bytes of `written` that have completed, less those refused */
	u64 discarded_done;
	u64 written_refused;	/* bytes that came back undone with an error: the kernel does not count them */
	u64 discarded_refused;
	u64 failed;	/* bytes of the writes that ended with an error: in the bitmap too */
	u64 recorded;	/* bytes of the records in the ring, also of writes that then did not fit; added after them */
	u64 commands;	/* those that may have changed the disk, nobody knows where: see take_command */
};

enum { FLIGHT_DISCARD = 1, FLIGHT_CACHED = 2 }; /* CACHED: of pages in the page cache that are being written out */

struct flight {
	u64 sector;
	u64 time;
	u32 length;
	u16 index;
	u8 by_queue; /* noted where it was queued: what the block layer splits off it is not noted again */
	u8 what; /* FLIGHT_... */
	u64 left; /* bytes that have not come to an end; 0: the entry is dead */
	u64 page; /* FLIGHT_CACHED: struct page *, where all of the write lies in that one */
};

/* A cache line, as the processor that submits and the one that completes hand it to each other. */
struct place {
	u64 bio; /* whose it is; 0: nobody's, and then `left` is 0 */
	struct flight flight;
	u64 unused[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* set by the loader */
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2); /* set by the loader: two slots */
	__type(key, u32);
	__type(value, u64);
} bitmap SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DISKS);
	__type(key, u64); /* major << 32 | first minor */
	__type(value, struct disk);
} disks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_EXCLUSIONS);
	__type(key, u32);
	__type(value, struct exclusion);
} excluded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_DISKS);
	__type(key, u32);
	__type(value, struct counters);
} counters SEC(".maps");

/*
 * The writes in flight. Nearly each has the place that follows from its bio's address: two atomic operations on one cache
 * line, which soon comes back, as the kernel takes the same bios again. Where that is taken, the map below has it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << PLACE_BITS);
	__type(key, u32);
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLYING);
	__type(key, u64); /* the bio's address */
	__type(value, struct flight);
} flying SEC(".maps");

#ifndef BITMAP_ONLY
/* Where a record is put together whose bytes lie in several segments of memory. */
struct joint {
	u32 taken;  /* by a run that this one has interrupted, as can happen before 6.2 */
	u32 joined; /* bytes of the record so far */
	u8 data[3 * BLOCK]; /* it holds one; the verifier knows that an offset and a length are small, not their sum */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct joint);
} joints SEC(".maps");

/*
 * Blocks that changed in memory while their newest write was in flight, so that the disk may have younger bytes than
 * the record. Past its size the oldest are forgotten.
 */
struct changes {
	u64 blocks; /* a bit for each 4 KiB block of the chunk */
	u64 time;   /* of the newest; CLOCK_MONOTONIC, ns */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CHANGED);
	__type(key, u64); /* disk number << 48 | chunk of 64 KiB */
	__type(value, struct changes);
} changed SEC(".maps");
#endif

extern const void page_offset_base __ksym __weak;
extern const void vmemmap_base __ksym __weak;

#define REQ_OP(name) \
	(bpf_core_enum_value_exists(enum req_op, name) ? (u32)bpf_core_enum_value(enum req_op, name) : (u32)name)
#define REQ_FLAG(name) \
	(1U << (bpf_core_enum_value_exists(enum req_flag_bits, name) ? \
		bpf_core_enum_value(enum req_flag_bits, name) : name))

static __always_inline struct control *the_control(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&control, &zero);
}

/* Even per-CPU figures: an interrupt may run the same program between a load and its store. */
#define ADD(where, n) __sync_fetch_and_add(&(where), (n))

static __always_inline u64 disk_key(struct gendisk *gendisk)
{
	return (u64)(u32)gendisk->major << 32 | (u32)gendisk->first_minor;
}

static __always_inline u64 disk_key_of(struct bio *bio)
{
	struct gendisk *gendisk = BPF_CORE_READ(bio, bi_bdev, bd_disk);
	return (u64)(u32)BPF_CORE_READ(gendisk, major) << 32 | (u32)BPF_CORE_READ(gendisk, first_minor);
}

/* ---- bitmap ---- */

struct marking {
	u64 first_bit;
	u64 last_bit;
	u64 first_word; /* of the range, within the disk's area */
	u64 area;	/* index in `bitmap` of the disk's area in the slot in use */
};

static __always_inline void mark_bits(u64 first_bit, u64 last_bit, u64 word, u64 area)
{
	u64 mask = ~0ULL;
	if (word == first_bit >> 6)
		mask &= ~0ULL << (first_bit & 63);
	if (word == last_bit >> 6)
		mask &= ~0ULL >> (63 - (last_bit & 63));
	u32 key = area + word;
	u64 *bits = bpf_map_lookup_elem(&bitmap, &key);
	if (bits && (*bits & mask) != mask)
		__sync_fetch_and_or(bits, mask);
}

#ifdef BITMAP_ONLY
/* Global, so that the verifier looks at it once, and not at each place that calls it. */
__noinline int mark_words(u64 first_bit, u64 last_bit, u64 area)
{
	u64 first = first_bit >> 6, last = last_bit >> 6;
	mark_bits(first_bit, last_bit, first, area);
	for (u32 i = 1; i < MAX_WORDS_MARKED; i++) {
		if (first + i >= last)
			break;
		u32 key = area + first + i;
		u64 *bits = bpf_map_lookup_elem(&bitmap, &key);
		if (bits)
			*(volatile u64 *)bits = ~0ULL; /* whatever others set meanwhile is part of it */
	}
	mark_bits(first_bit, last_bit, last, area);
	return 0;
}
#else
static long mark_word(u32 i, struct marking *m)
{
	mark_bits(m->first_bit, m->last_bit, m->first_word + i, m->area);
	return 0;
}
#endif

/* Note that these bytes of the disk are to be copied. */
static __always_inline void mark(struct control *ctl, struct disk *disk, u64 state, u64 sector, u32 length)
{
	struct marking m;
	u64 slot = STATE_SLOT(state);
	if (!length)
		return;
	m.first_bit = sector >> (disk->shift & 63);
	m.last_bit = (sector + (((u64)length - 1) >> SECTOR_SHIFT)) >> (disk->shift & 63);
	m.first_word = m.first_bit >> 6;
	m.area = slot * ctl->slot_words + disk->first_word;
	u64 last_word = m.last_bit >> 6;
	/* A disk that has grown, or a discard of terabytes: nothing finer than "all of it" would be right or quick. */
	if (last_word >= disk->words || last_word - m.first_word >= MAX_WORDS_MARKED) {
		__sync_fetch_and_or(&ctl->whole[slot], 1ULL << (disk->index & 63));
		return;
	}
	if (last_word == m.first_word)
		mark_bits(m.first_bit, m.last_bit, m.first_word, m.area);
	else
#ifdef BITMAP_ONLY
		mark_words(m.first_bit, m.last_bit, m.area);
#else
		bpf_loop(last_word - m.first_word + 1, mark_word, &m, 0);
#endif
}

static __always_inline void to_bitmap_mode(struct control *ctl, u64 state, u64 cause)
{
	/* Only the run that makes the change writes why; and it never undoes a change made by user space meanwhile. */
	if (__sync_val_compare_and_swap(&ctl->state, state, state & ~STATE_DATA) == state) {
		ctl->cause = cause;
		ctl->since = bpf_ktime_get_ns();
	}
}

#ifndef BITMAP_ONLY
/* ---- ring ---- */

struct copying {
	u64 vec; /* struct bio_vec * */
	u64 sector;
	u64 time;
	u64 address;
	u32 left;
	u32 index;
	u32 done; /* bytes of vec[index] that are behind us */
	u32 cause;
	u16 disk;
	u8 flags;
	u8 scattered; /* the next record's bytes do not lie in one segment */
};

/* struct bio_vec as it has been since 2.6; CO-RE cannot index an array through an unknown pointer. */
struct segment {
	u64 page;
	u32 len;
	u32 offset;
};

static __always_inline long segment_at(u64 vec, u32 index, struct segment *segment)
{
	return bpf_probe_read_kernel(segment, sizeof(*segment), (void *)(vec + (u64)index * sizeof(*segment)));
}

static __always_inline long read_segment(struct copying *c, struct segment *segment)
{
	if (!segment_at(c->vec, c->index, segment))
		return 0;
	c->cause = CAUSE_READ_FAULT;
	return 1;
}

static __always_inline void *bytes_of(struct copying *c, struct segment *segment)
{
	return (void *)((segment->page << 6) + c->address + segment->offset + c->done);
}

/* A record is all that a write has of one 4 KiB block, so it always holds whole sectors. */
static __always_inline u32 record_length(struct copying *c)
{
	u32 n = BLOCK - (((u32)c->sector << SECTOR_SHIFT) & (BLOCK - 1));
	return n > c->left ? c->left : n;
}

/* Nonzero where the write's records end, c->cause telling of failure. */
static __always_inline long put_record(struct copying *c, void *from, u32 n)
{
	struct record *record = bpf_ringbuf_reserve(&ring, sizeof(struct record), 0);
	if (!record) {
		c->cause = CAUSE_RING_FULL;
		return 1;
	}
	record->sector = c->sector;
	record->time = c->time;
	record->length = n;
	record->disk = c->disk;
	record->kind = KIND_WRITE;
	record->flags = c->flags;
	long error;
	if (n == BLOCK) {
		error = bpf_probe_read_kernel(record->data, BLOCK, from);
	} else {
		u64 part = n;
		asm volatile("%0 &= 4095" : "+r"(part)); /* a bound that the verifier can see */
		error = bpf_probe_read_kernel(record->data, part, from);
	}
	if (error) {
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		c->cause = CAUSE_READ_FAULT;
		return 1;
	}
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	c->sector += n >> SECTOR_SHIFT;
	c->left -= n;
	return c->left == 0;
}

/* A record whose bytes lie in one segment, as nearly all do. */
static long copy_block(u32 i, struct copying *c)
{
	struct segment segment;
	if (read_segment(c, &segment))
		return 1;
	if (c->done >= segment.len) { /* an empty or finished segment */
		c->index++;
		c->done = 0;
		return 0;
	}
	u32 n = record_length(c);
	if (n > segment.len - c->done) {
		c->scattered = 1;
		return 1;
	}
	if (put_record(c, bytes_of(c, &segment), n))
		return 1;
	c->done += n;
	if (c->done >= segment.len) {
		c->index++;
		c->done = 0;
	}
	return 0;
}

/*
 * One segment's part of a record, by way of the joint. Segments end anywhere: a disk whose dma_alignment is less than
 * a sector (NVMe, SCSI: 4 bytes) takes memory like that for direct I/O since 6.0.
 */
static long join_part(u32 i, struct copying *c)
{
	u32 zero = 0;
	struct segment segment;
	struct joint *joint = bpf_map_lookup_elem(&joints, &zero);
	if (!joint || read_segment(c, &segment))
		return 1;
	if (c->done >= segment.len) {
		c->index++;
		c->done = 0;
		return 0;
	}
	u32 whole = record_length(c);
	u64 at = joint->joined, n = segment.len - c->done;
	if (n > whole - at)
		n = whole - at;
	u64 offset = at, part = n;
	asm volatile("%0 &= 4095" : "+r"(offset));
	asm volatile("%0 &= 8191" : "+r"(part));
	if (bpf_probe_read_kernel(joint->data + offset, part, bytes_of(c, &segment))) {
		c->cause = CAUSE_READ_FAULT;
		return 1;
	}
	c->done += n;
	joint->joined = at + n;
	if (at + n < whole)
		return 0;
	joint->joined = 0;
	return put_record(c, joint->data, whole);
}

/* What is left of the write from its first scattered record on. */
static __always_inline void join(struct copying *c)
{
	u32 zero = 0;
	struct joint *joint = bpf_map_lookup_elem(&joints, &zero);
	if (!joint || *(volatile u32 *)&joint->taken) {
		c->cause = CAUSE_JOINT_TAKEN;
		return;
	}
	*(volatile u32 *)&joint->taken = 1;
	joint->joined = 0;
	bpf_loop(MAX_STEPS, join_part, c, 0);
	*(volatile u32 *)&joint->taken = 0;
}

/* One record without data: a range or a flush marker. 0 or the cause of failure. */
static __always_inline u32 put_plain(u64 time, u64 sector, u32 length, u16 disk, u8 kind, u8 flags)
{
	struct record *record = bpf_ringbuf_reserve(&ring, sizeof(struct record), 0);
	if (!record)
		return CAUSE_RING_FULL;
	record->sector = sector;
	record->time = time;
	record->length = length;
	record->disk = disk;
	record->kind = kind;
	record->flags = flags;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline u32 put_data(struct bio *bio, struct control *ctl, u64 time, u16 disk, u8 flags,
				    u32 *recorded)
{
	struct copying c = {
		.vec = (u64)BPF_CORE_READ(bio, bi_io_vec),
		.sector = bio->bi_iter.bi_sector,
		.time = time,
		.address = ctl->address,
		.left = bio->bi_iter.bi_size,
		.index = bio->bi_iter.bi_idx,
		.done = bio->bi_iter.bi_bvec_done,
		.disk = disk,
		.flags = flags,
	};
	if (!c.address)
		return CAUSE_NO_ADDRESS;
	u32 size = c.left;
	bpf_loop(MAX_STEPS, copy_block, &c, 0);
	if (c.scattered)
		join(&c);
	*recorded = size - c.left;
	if (c.cause)
		return c.cause;
	return c.left ? CAUSE_READ_FAULT : 0;
}

#endif

/* Not a zone operation or one that is newer than this program. */
static __always_inline int is_known(u32 op)
{
	return op == REQ_OP(REQ_OP_WRITE) || op == REQ_OP(REQ_OP_WRITE_ZEROES) || op == REQ_OP(REQ_OP_DISCARD) ||
	       op == REQ_OP(REQ_OP_SECURE_ERASE);
}

#ifndef BITMAP_ONLY
/* The whole write into the ring. 0 or the cause of failure; then some of it may be there all the same. */
static __always_inline u32 put(struct bio *bio, struct control *ctl, u64 time, u32 op, u64 sector, u32 length, u16 disk,
			       u8 flags, u32 *recorded)
{
	u32 failure;
	if (length & ((1 << SECTOR_SHIFT) - 1)) /* no kernel does that, and no record could hold it */
		return CAUSE_UNKNOWN_OP;
	if (op == REQ_OP(REQ_OP_WRITE))
		return put_data(bio, ctl, time, disk, flags, recorded);
	if (op == REQ_OP(REQ_OP_WRITE_ZEROES))
		failure = put_plain(time, sector, length, disk, KIND_ZERO, flags);
	else if (is_known(op))
		failure = put_plain(time, sector, length, disk, KIND_DISCARD, flags);
	else
		failure = CAUSE_UNKNOWN_OP;
	*recorded = failure ? 0 : length;
	return failure;
}

/* ---- page addresses ---- */

/* Where the kernel lists the two bases of its memory map, K follows from them. */
static __always_inline void learn_from_symbols(struct control *ctl)
{
	u64 linear = 0, map = 0;
	if (bpf_core_type_size(struct page) != 64)
		return;
	if (!&page_offset_base || !&vmemmap_base)
		return;
	if (bpf_probe_read_kernel(&linear, sizeof(linear), &page_offset_base))
		return;
	if (bpf_probe_read_kernel(&map, sizeof(map), &vmemmap_base))
		return;
	if (!linear || !map)
		return;
	ctl->address_source = 1;
	ctl->address = linear - (map << 6);
}

SEC("tp_btf/block_dirty_buffer")
int BPF_PROG(learn_address, struct buffer_head *buffer)
{
	struct control *ctl = the_control();
	u64 head[2] = {};
	if (!ctl || ctl->address || bpf_core_type_size(struct page) != 64)
		return 0;
	learn_from_symbols(ctl); /* where they are listed they are the better witness */
	if (ctl->address)
		return 0;
	u64 page = (u64)BPF_CORE_READ(buffer, b_page);
	u64 data = (u64)BPF_CORE_READ(buffer, b_data);
	/*
	 * Within a folio of several pages b_data may lie pages behind b_page, and K would come out too large: only a
	 * page of its own will do, neither head (flag) nor tail (low bit of the second word) of a compound.
	 */
	if (bpf_probe_read_kernel(head, sizeof(head), (void *)page))
		return 0;
	u64 head_bit = bpf_core_enum_value_exists(enum pageflags, PG_head) ?
		       bpf_core_enum_value(enum pageflags, PG_head) : PG_head;
	if (head[0] >> (head_bit & 63) & 1 || head[1] & 1)
		return 0;
	if (page < 1ULL << 63 || data < 1ULL << 63)
		return 0;
	ctl->address_source = 2;
	ctl->address = (data & ~(u64)(BLOCK - 1)) - (page << 6);
	return 0;
}

/* ---- pages that change while they are written ---- */

/*
 * Few file systems hold a page still while it is written. Where it changes it is dirty again, or locked by who is about
 * to make it so, when the write completes: both are looked at before the kernel lets go of the page. Mostly the page is
 * written again soon, and all is well. But its file may be deleted before, and then nobody ever writes those bytes.
 */

struct looking {
	u64 vec; /* struct bio_vec * */
	u64 sector;
	u32 left;
	u32 index;
	u32 done; /* bytes of vec[index] that are behind us */
	struct bio *bio;
};

#define CHUNK_KEY(disk, block) ((u64)(disk) << 48 | (block) / BLOCKS_IN_CHUNK)
#define BLOCK_BIT(block) (1ULL << ((block) & (BLOCKS_IN_CHUNK - 1)))

#define PAGE_FLAG(name) \
	(bpf_core_enum_value_exists(enum pageflags, name) ? 1ULL << (bpf_core_enum_value(enum pageflags, name) & 63) : 0)

/* The flags of a page, those of its folio if it is a part of one. */
static __always_inline u64 page_flags(u64 page)
{
	u64 head[2] = {};
	if (bpf_probe_read_kernel(head, sizeof(head), (void *)page))
		return 0;
	if (!(head[1] & 1))
		return head[0];
	return bpf_probe_read_kernel(head, sizeof(head[0]), (void *)(head[1] - 1)) ? 0 : head[0];
}

static __always_inline void note_changed(struct bio *bio, u64 block)
{
	u64 id = disk_key_of(bio), bit = BLOCK_BIT(block);
	struct disk *disk = bpf_map_lookup_elem(&disks, &id);
	struct control *ctl = the_control();
	if (!disk || !ctl)
		return;
	u64 key = CHUNK_KEY(disk->number, block);
	struct changes fresh = { .blocks = bit, .time = bpf_ktime_get_ns() };
	*(volatile u64 *)&ctl->changed = 1;
	/* Looked up first: an update takes room, and may drop another, before it finds that there is one. */
	struct changes *known = bpf_map_lookup_elem(&changed, &key);
	if (!known && bpf_map_update_elem(&changed, &key, &fresh, BPF_NOEXIST))
		known = bpf_map_lookup_elem(&changed, &key);
	if (known) {
		__sync_fetch_and_or(&known->blocks, bit);
		*(volatile u64 *)&known->time = fresh.time;
	}
}

/* One page, of which the write has `n` bytes. */
static __always_inline void look_at(struct bio *bio, u64 page, u64 sector, u32 n)
{
	u64 flags = page_flags(page);
	if (!(flags & PAGE_FLAG(PG_writeback)) || !(flags & (PAGE_FLAG(PG_dirty) | PAGE_FLAG(PG_locked))))
		return;
	u64 first = sector >> 3, last = (sector + ((n - 1) >> SECTOR_SHIFT)) >> 3;
	note_changed(bio, first);
	if (last != first)
		note_changed(bio, last);
}

static long look_at_page(u32 i, struct looking *l)
{
	struct segment segment;
	if (segment_at(l->vec, l->index, &segment))
		return 1;
	if (l->done >= segment.len) {
		l->index++;
		l->done = 0;
		return 0;
	}
	u64 at = (u64)segment.offset + l->done;
	u32 n = (1 << PAGE_SHIFT) - (at & ((1 << PAGE_SHIFT) - 1));
	if (n > segment.len - l->done)
		n = segment.len - l->done;
	if (n > l->left)
		n = l->left;
	look_at(l->bio, segment.page + (at >> PAGE_SHIFT << PAGE_STRUCT_SHIFT), l->sector, n);
	l->sector += n >> SECTOR_SHIFT;
	l->done += n;
	l->left -= n;
	return l->left == 0;
}

/* A write of `bytes` from the page cache completes: which of its pages have changed? */
static __always_inline void look_for_changes(struct bio *bio, u32 bytes)
{
	struct looking l = {
		.vec = (u64)BPF_CORE_READ(bio, bi_io_vec),
		.sector = BPF_CORE_READ(bio, bi_iter.bi_sector),
		.left = bytes,
		.index = BPF_CORE_READ(bio, bi_iter.bi_idx),
		.done = BPF_CORE_READ(bio, bi_iter.bi_bvec_done),
		.bio = bio,
	};
	bpf_loop(MAX_STEPS, look_at_page, &l, 0);
}

/* Is this a write of pages in the page cache? The first one tells; direct I/O and journals are not. `only`: see flight. */
static __always_inline int is_cached(struct bio *bio, u32 length, u64 *only)
{
	struct segment segment;
	u32 index = bio->bi_iter.bi_idx;
	if (index) { /* it was split */
		if (segment_at((u64)bio->bi_io_vec, index, &segment))
			return 0;
		return !!(page_flags(segment.page) & PAGE_FLAG(PG_writeback));
	}
	u64 page = (u64)bio->bi_io_vec->bv_page;
	if (!(page_flags(page) & PAGE_FLAG(PG_writeback)))
		return 0;
	u32 end = bio->bi_iter.bi_bvec_done + length;
	if (end <= bio->bi_io_vec->bv_len && bio->bi_io_vec->bv_offset + end <= 1 << PAGE_SHIFT)
		*only = page;
	return 1;
}

struct settling {
	u64 key;
	u64 first; /* blocks; the end is exclusive */
	u64 end;
};

static long settle_chunk(u32 i, struct settling *s)
{
	u64 key = s->key + i, start = (s->first / BLOCKS_IN_CHUNK + i) * BLOCKS_IN_CHUNK;
	struct changes *known = bpf_map_lookup_elem(&changed, &key);
	if (!known)
		return 0;
	u64 bits = (1ULL << BLOCKS_IN_CHUNK) - 1;
	if (s->first > start)
		bits &= ~0ULL << ((s->first - start) & 63);
	if (s->end < start + BLOCKS_IN_CHUNK)
		bits &= (1ULL << ((s->end - start) & 63)) - 1;
	/* One that another processor adds just now may go with the rest: then a proof may report what is no fault. */
	if (!(__sync_fetch_and_and(&known->blocks, ~bits) & ~bits))
		bpf_map_delete_elem(&changed, &key);
	return 0;
}

/* These bytes are written anew, so what the disk will hold of the blocks that are written whole is in this record. */
static __always_inline void settle(struct disk *disk, u64 sector, u32 length)
{
	struct settling s = {
		.first = (sector + 7) >> 3,
		.end = (sector + (length >> SECTOR_SHIFT)) >> 3,
	};
	if (s.first >= s.end)
		return;
	s.key = CHUNK_KEY(disk->number, s.first);
	u64 chunks = (s.end - 1) / BLOCKS_IN_CHUNK - s.first / BLOCKS_IN_CHUNK + 1;
	if (chunks == 1)
		settle_chunk(0, &s);
	else
		bpf_loop(chunks, settle_chunk, &s, 0);
}
#endif

/* ---- writes in flight ---- */

static __always_inline struct place *place_of(u64 bio)
{
	u32 key;
	/* Of a pointer the verifier lets nothing be computed but its lower half. */
	asm volatile("%0 = %1" : "=w"(key) : "w"((u32)bio));
	key = key * 0x9e3779b1U >> (32 - PLACE_BITS);
	return bpf_map_lookup_elem(&places, &key);
}

/* One of the address is gone already, as the kernel uses the address again: its completion passed us by. */
static __always_inline void replace_flight(struct control *ctl, struct flight *old, struct flight *flight)
{
	if (old->left)
		ADD(ctl->lost, 1);
	*old = *flight;
}

static __always_inline void displace(struct control *ctl, u64 bio, struct flight *flight)
{
	ADD(ctl->displaced, 1); /* before the entry: 0 has to mean that the map is empty, as it is not looked at then */
	if (!bpf_map_update_elem(&flying, &bio, flight, BPF_NOEXIST))
		return;
	ADD(ctl->displaced, -1);
	struct flight *old = bpf_map_lookup_elem(&flying, &bio);
	if (old)
		replace_flight(ctl, old, flight);
	else
		ADD(ctl->untracked, 1);
}

static __always_inline void forget_displaced(struct control *ctl, u64 bio)
{
	struct flight *old = bpf_map_lookup_elem(&flying, &bio);
	if (!old)
		return;
	if (old->left)
		ADD(ctl->lost, 1);
	if (!bpf_map_delete_elem(&flying, &bio))
		ADD(ctl->displaced, -1);
}

static __always_inline void take_off(struct control *ctl, u64 bio, u64 time, u16 index, u64 sector, u32 length,
				     u8 by_queue, u8 what, u64 page)
{
	struct flight flight = {
		.sector = sector,
		.time = time,
		.length = length,
		.index = index,
		.by_queue = by_queue,
		.what = what,
		.left = length,
		.page = page,
	};
	struct place *place = place_of(bio);
	if (!length || !place)
		return;
	u64 owner = *(volatile u64 *)&place->bio;
	if (owner == bio) {
		replace_flight(ctl, &place->flight, &flight);
		return;
	}
	if (owner || __sync_val_compare_and_swap(&place->bio, 0, bio)) {
		displace(ctl, bio, &flight);
		return;
	}
	/* The place is ours by the exchange above. No completion looks for this bio yet: it is submitted after this run. */
	place->flight = flight;
	if (*(volatile u64 *)&ctl->displaced)
		forget_displaced(ctl, bio);
}

/* ---- exclusions ---- */

/* Is all of the range within one excluded extent? What lies across an edge is captured. */
static __always_inline int is_excluded(struct disk *disk, u64 sector, u32 length)
{
	u64 end = sector + (length >> SECTOR_SHIFT);
	u32 low = disk->first_exclusion, high = low + disk->exclusions;
	if (low == high)
		return 0;
	for (int i = 0; i < 12; i++) { /* 2^11 = MAX_EXCLUSIONS */
		if (low >= high)
			break;
		u32 middle = (low + high) / 2;
		struct exclusion *x = bpf_map_lookup_elem(&excluded, &middle);
		if (!x)
			break;
		if (end > x->end && sector >= x->end)
			low = middle + 1;
		else if (sector < x->start)
			high = middle;
		else
			return end <= x->end;
	}
	return 0;
}

/* ---- submission ---- */

/*
 * Where a write is taken down. On a disk that works on requests: when a bio gets a request, or joins one. The block
 * layer has split and checked the bio by then, and can refuse it no more (EAGAIN to who does not want to wait, EINVAL,
 * EOPNOTSUPP); each fragment comes by itself, also of a bio that an upper device sent on as it was; and the disk cannot
 * have it yet. Discards may join a request without any event, so they are taken down when they are queued, as is
 * everything for other disks. Those that are not to wait are refused often enough, and seldom joined: land_unseen
 * looks after the ones that were.
 */
static __always_inline int takes_request(struct disk *disk, u32 op, u32 opf)
{
	return disk->by_request && (op != REQ_OP(REQ_OP_DISCARD) || opf & REQ_FLAG(__REQ_NOWAIT));
}

#ifndef BITMAP_ONLY
/*
 * A driver that says it can write zeroes, or discard, and cannot, refuses each of them when it gets it, as the kernel
 * asks again for all but a few drivers. A record is there by then, so each refusal would cost a heal. After the first
 * one they get no record. One that ends well all the same is found by land_unseen, before anybody is told.
 */
enum { REFUSED_ZEROES = 1, REFUSED_UNMAPPING_ZEROES = 2, REFUSED_DISCARD = 4 };

static __always_inline u64 refusable_kind(struct disk *disk, u32 opf)
{
	u32 op = opf & OP_MASK;
	if (!disk->by_request)
		return 0;
	if (op == REQ_OP(REQ_OP_WRITE_ZEROES))
		return opf & REQ_FLAG(__REQ_NOUNMAP) ? REFUSED_ZEROES : REFUSED_UNMAPPING_ZEROES;
	return op == REQ_OP(REQ_OP_DISCARD) ? REFUSED_DISCARD : 0;
}

static __always_inline int is_refusing(struct disk *disk, u32 opf)
{
	return !!(*(volatile u64 *)&disk->refusing & refusable_kind(disk, opf));
}

static __always_inline void note_refusing(struct disk *disk, u32 opf, int refuses)
{
	u64 kind = refusable_kind(disk, opf);
	if (!kind)
		return;
	if (refuses)
		__sync_fetch_and_or(&disk->refusing, kind);
	else
		__sync_fetch_and_and(&disk->refusing, ~kind);
}

/* The driver has not begun: BLK_STS_NOTSUPP; -EOPNOTSUPP where the hook still tells an errno. */
static __always_inline int is_refusal(u32 error)
{
	return error == 1 || error == (u32)-95;
}
#endif

static __always_inline int take(struct bio *bio, int has_request)
{
	u32 opf = bio->bi_opf;
	u32 op = opf & OP_MASK;
	u32 flush_op = REQ_OP(REQ_OP_FLUSH);
	if (!(op & 1) && op != flush_op)
		return 0;

	u64 key = disk_key(bio->bi_bdev->bd_disk);
	struct disk *disk = bpf_map_lookup_elem(&disks, &key);
	if (!disk || takes_request(disk, op, opf) != has_request)
		return 0;
	struct control *ctl = the_control();
	u32 index = disk->index;
	struct counters *count = bpf_map_lookup_elem(&counters, &index);
	if (!ctl || !count)
		return 0;
#ifndef BITMAP_ONLY
	if (is_refusing(disk, opf))
		return 0;
#endif

	/* Once for the whole run, and volatile so that the compiler does not read it again: user space counts on it that
	 * after a grace period nobody acts on the word before. */
	u64 state = *(volatile u64 *)&ctl->state;
	u64 time = bpf_ktime_get_ns();
	u64 sector = bio->bi_iter.bi_sector;
	u32 length = bio->bi_iter.bi_size;
	u8 flags = 0;
	u32 failure = 0;
	if (opf & REQ_FLAG(__REQ_FUA))
		flags |= FLAG_FUA;
	if (opf & REQ_FLAG(__REQ_PREFLUSH) || op == flush_op)
		flags |= FLAG_PREFLUSH;
#ifndef BITMAP_ONLY
	if (!ctl->address)
		learn_from_symbols(ctl);
#endif

	ADD(count->bios, 1);
	if (flags & FLAG_PREFLUSH) {
		ADD(count->flushes, 1);
#ifndef BITMAP_ONLY
		/* The marker goes before the write that carries the flag: that write is not part of what is flushed. */
		if (state & STATE_DATA)
			failure = put_plain(time, 0, 0, disk->number, KIND_FLUSH, flags);
#endif
	}
	if (op == flush_op || (op == REQ_OP(REQ_OP_WRITE) && !length)) {
		if (failure)
			to_bitmap_mode(ctl, state, failure);
		return 0;
	}

	u8 what = 0;
	u64 page = 0;
	if (op == REQ_OP(REQ_OP_DISCARD)) {
		what = FLIGHT_DISCARD;
		ADD(count->discarded, length);
	} else {
#ifndef BITMAP_ONLY
		if (op == REQ_OP(REQ_OP_WRITE) && is_cached(bio, length, &page))
			what = FLIGHT_CACHED;
#endif
		ADD(count->written, length);
	}
	/* Before the record: whoever finds a record in the ring, and not the write in flight, may take it as landed. */
	take_off(ctl, (u64)bio, time, index, sector, length, !has_request, what, page);

	if (is_excluded(disk, sector, length)) {
		ADD(count->excluded, length);
		if (failure)
			to_bitmap_mode(ctl, state, failure);
		return 0;
	}
#ifndef BITMAP_ONLY
	if (*(volatile u64 *)&ctl->changed && (op == REQ_OP(REQ_OP_WRITE) || op == REQ_OP(REQ_OP_WRITE_ZEROES)))
		settle(disk, sector, length);
	if (state & STATE_DATA) {
		u32 recorded = 0;
		if (!failure)
			failure = put(bio, ctl, time, op, sector, length, disk->number, flags, &recorded);
		ADD(count->recorded, recorded); /* after the records: user space compares it with what it has drained */
		if (!failure) {
			ADD(count->captured, length);
			return 0;
		}
	}
#endif
	if (is_known(op))
		mark(ctl, disk, state, sector, length);
	else /* where it writes is not known */
		__sync_fetch_and_or(&ctl->whole[STATE_SLOT(state)], 1ULL << (index & 63));
	ADD(count->mapped, length);
	/* Marked before the mode changes, and both before the disk gets the write: what is submitted once this write has
	 * completed goes to the bitmap, so the ring stays a prefix. */
	if (failure)
		to_bitmap_mode(ctl, state, failure);
	return 0;
}

/* Not inlined: see on_queue. */
static __noinline int take_queued(struct bio *bio)
{
	return take(bio, 0);
}

/* Runs for each bio of the machine, mostly for nothing: a few instructions without the rest, as cold ones cost the most. */
SEC("tp_btf/block_bio_queue")
int BPF_PROG(on_queue, struct bio *bio)
{
	u32 op = bio->bi_opf & OP_MASK;
	struct control *ctl = the_control();
	if (!ctl || (op != REQ_OP(REQ_OP_DISCARD) && !*(volatile u64 *)&ctl->queued))
		return 0; /* as takes_request would tell */
	return take_queued(bio);
}

#ifndef BITMAP_ONLY
SEC("tp_btf/block_getrq")
int BPF_PROG(on_request, struct bio *bio)
{
	return take(bio, 1);
}

SEC("tp_btf/block_bio_backmerge")
int BPF_PROG(on_back_merge, struct bio *bio)
{
	return take(bio, 1);
}

SEC("tp_btf/block_bio_frontmerge")
int BPF_PROG(on_front_merge, struct bio *bio)
{
	return take(bio, 1);
}
#endif

/* ---- commands ---- */

/*
 * A command that a program sends straight to the driver (SG_IO, /dev/sg*, NVMe's ioctls and io_uring commands) is a
 * request too, of an operation of its own. Its bio, if it has one, tells no sector; neither the program nor the kernel
 * counts its bytes. So all that can be said when one ends is whether it may have changed its disk. Then all of the disk
 * is dirty, and bitmap mode begins, before anybody is told that it has ended. The kernel sends commands in the same way.
 */
enum protocol { PROTOCOL_UNKNOWN = 0, PROTOCOL_SCSI = 1, PROTOCOL_NVME = 2, PROTOCOL_NVME_ADMIN = 3 };

struct command {
	u8 protocol;
	u8 code;    /* the command's first byte */
	u8 ata;     /* what ATA PASS-THROUGH carries; else 0 */
};

static __always_inline int is_command(u32 op)
{
	return op == REQ_OP(REQ_OP_DRV_OUT) || op == REQ_OP(REQ_OP_DRV_IN) || op == REQ_OP_SCSI_OUT || op == REQ_OP_SCSI_IN;
}

static __always_inline int read_scsi(struct request *request, struct scsi_cmnd *scsi, struct command *command)
{
	u64 cdb;
	u8 bytes[16] = {};
	if (!bpf_core_field_exists(scsi->device) || !bpf_core_field_exists(struct scsi_device, request_queue))
		return 0;
	struct scsi_device *device = BPF_CORE_READ(scsi, device);
	if (!device || BPF_CORE_READ(device, request_queue) != request->q) /* then it is no SCSI command */
		return 0;
	if (bpf_core_field_exists(scsi->cmnd))
		cdb = (u64)scsi + bpf_core_field_offset(scsi->cmnd);
	else if (bpf_core_field_exists(((struct scsi_cmnd___with_pointer *)scsi)->cmnd))
		cdb = (u64)BPF_CORE_READ((struct scsi_cmnd___with_pointer *)scsi, cmnd);
	else
		return 0;
	if (bpf_probe_read_kernel(bytes, sizeof(bytes), (void *)cdb) && bpf_probe_read_kernel(bytes, 12, (void *)cdb))
		return 0;
	command->protocol = PROTOCOL_SCSI;
	command->code = bytes[0];
	command->ata = bytes[0] == 0x85 ? bytes[14] : bytes[0] == 0xa1 ? bytes[9] : 0;
	return 1;
}

static __always_inline int read_nvme(struct request *request, struct nvme_request *nvme, struct command *command)
{
	if (!bpf_core_field_exists(nvme->ctrl) || !bpf_core_field_exists(struct nvme_ctrl, admin_tagset))
		return 0;
	struct nvme_ctrl *controller = BPF_CORE_READ(nvme, ctrl);
	struct blk_mq_tag_set *tags = BPF_CORE_READ(request, q, tag_set);
	if (!controller || !tags)
		return 0;
	if (BPF_CORE_READ(controller, tagset) == tags)
		command->protocol = PROTOCOL_NVME;
	else if (BPF_CORE_READ(controller, admin_tagset) == tags)
		command->protocol = PROTOCOL_NVME_ADMIN;
	else
		return 0;
	return !bpf_probe_read_kernel(&command->code, 1, BPF_CORE_READ(nvme, cmd));
}

static __always_inline void read_command(struct request *request, struct command *command)
{
	u64 behind = (u64)request + bpf_core_type_size(struct request);
	if (!read_scsi(request, (struct scsi_cmnd *)behind, command) &&
	    !read_nvme(request, (struct nvme_request *)behind, command))
		command->protocol = PROTOCOL_UNKNOWN;
}

/* 256 bits, for the codes that leave the blocks of a disk as they are, whatever else they do. */
static __always_inline int is_in(u32 code, u64 first, u64 second, u64 third, u64 fourth)
{
	u64 bits = code < 64 ? first : code < 128 ? second : code < 192 ? third : fourth;
	return bits >> (code & 63) & 1;
}
#define CODE(n) (1ULL << ((n) & 63))

static __always_inline int scsi_is_harmless(u32 code)
{
	return is_in(code,
		     /* test ready, request sense, read, seek, inquiry, mode select, (un)reserve, mode sense, start/stop,
		      * diagnostics, prevent removal, read capacity, read, seek, verify, prefetch, synchronize, defects,
		      * read buffer */
		     CODE(0x00) | CODE(0x03) | CODE(0x08) | CODE(0x0b) | CODE(0x12) | CODE(0x15) | CODE(0x16) | CODE(0x17) |
			     CODE(0x1a) | CODE(0x1b) | CODE(0x1c) | CODE(0x1d) | CODE(0x1e) | CODE(0x25) | CODE(0x28) |
			     CODE(0x2b) | CODE(0x2f) | CODE(0x34) | CODE(0x35) | CODE(0x37) | CODE(0x3c),
		     /* logs, mode select, (un)reserve, mode sense, persistent reservations */
		     CODE(0x4c) | CODE(0x4d) | CODE(0x55) | CODE(0x56) | CODE(0x57) | CODE(0x5a) | CODE(0x5e) | CODE(0x5f),
		     /* read, verify, prefetch, synchronize, service action in, list units, security in, maintenance, read,
		      * verify, defects */
		     CODE(0x88) | CODE(0x8f) | CODE(0x90) | CODE(0x91) | CODE(0x9e) | CODE(0xa0) | CODE(0xa2) | CODE(0xa3) |
			     CODE(0xa4) | CODE(0xa8) | CODE(0xaf) | CODE(0xb7),
		     0);
}

static __always_inline int ata_is_harmless(u32 code)
{
	return is_in(code,
		     /* native size, read and write logs */
		     CODE(0x27) | CODE(0x2f) | CODE(0x3f),
		     /* verify, logs by DMA */
		     CODE(0x40) | CODE(0x42) | CODE(0x47) | CODE(0x57),
		     /* diagnostics, power, SMART */
		     CODE(0x90) | CODE(0x94) | CODE(0x95) | CODE(0x96) | CODE(0x97) | CODE(0x98) | CODE(0x99) | CODE(0xb0),
		     /* multiple mode, power, flush, identify, features, freezing the password, native size */
		     CODE(0xc6) | CODE(0xe0) | CODE(0xe1) | CODE(0xe2) | CODE(0xe3) | CODE(0xe5) | CODE(0xe6) | CODE(0xe7) |
			     CODE(0xea) | CODE(0xec) | CODE(0xef) | CODE(0xf5) | CODE(0xf8));
}

/* `brings`: it has data for the host. A command that reads changes nothing. */
static __always_inline int may_change(struct command *command, u32 op, int brings)
{
	u32 code = command->code;
	switch (command->protocol) {
	case PROTOCOL_SCSI:
		if (brings || (code != 0x85 && code != 0xa1 ? scsi_is_harmless(code) : ata_is_harmless(command->ata)))
			return 0;
		return 1;
	case PROTOCOL_NVME:
		/* flush, read, compare, verify, reservations, placement, cancel */
		return !brings && !is_in(code,
					 CODE(0x00) | CODE(0x02) | CODE(0x05) | CODE(0x0c) | CODE(0x0d) | CODE(0x0e) |
						 CODE(0x11) | CODE(0x12) | CODE(0x15) | CODE(0x18) | CODE(0x1d), 0, 0, 0);
	case PROTOCOL_NVME_ADMIN:
		/* namespaces made and deleted, capacity, format, security send, sanitize */
		return code == 0x0d || code == 0x20 || code == 0x80 || code == 0x81 || code == 0x84;
	default:
		return op & 1;
	}
}

static __noinline int take_command(struct request *request, u32 op)
{
	struct control *ctl = the_control();
	struct command command = {};
	struct gendisk *gendisk = NULL;
	u64 touched = 0;
	if (!ctl)
		return 0;
	read_command(request, &command);
	if (!may_change(&command, op, !(op & 1) && BPF_CORE_READ(request, bio)))
		return 0;
	if (bpf_core_field_exists(request->q->disk))
		gendisk = BPF_CORE_READ(request, q, disk);
	else if (bpf_core_field_exists(request->rq_disk))
		gendisk = BPF_CORE_READ(request, rq_disk);
	u64 key = (u64)(u32)BPF_CORE_READ(gendisk, major) << 32 | (u32)BPF_CORE_READ(gendisk, first_minor);
	struct disk *disk = gendisk ? bpf_map_lookup_elem(&disks, &key) : NULL;
	if (disk)
		touched = 1ULL << (disk->index & 63);
	else if (command.protocol == PROTOCOL_NVME_ADMIN) /* which namespace is not looked at: it is rare enough */
		touched = *(volatile u64 *)&ctl->nvme;
	else if (command.protocol == PROTOCOL_NVME)
		touched = *(volatile u64 *)&ctl->by_paths;
	if (!touched)
		return 0;
	u64 state = *(volatile u64 *)&ctl->state;
	ctl->command = (u64)command.protocol << 8 | command.code;
	for (u32 index = 0; index < MAX_DISKS; index++) {
		u32 place = index;
		struct counters *count = touched >> index & 1 ? bpf_map_lookup_elem(&counters, &place) : NULL;
		if (count)
			ADD(count->commands, 1);
	}
	__sync_fetch_and_or(&ctl->whole[STATE_SLOT(state)], touched);
	if (state & STATE_DATA)
		to_bitmap_mode(ctl, state, CAUSE_COMMAND);
	return 0;
}

/* ---- completion ---- */

/*
 * What a request brings home ends here, by block_rq_complete; bios that never became a request (refused ones, those of
 * drivers without requests) end by block_bio_complete, which the kernel holds back for the others. Both count bytes
 * off the flight of the bio. Where that was noted when the bio was queued, the block layer may have split it into
 * fragments since.
 */

/* Was the bio split off another by the block layer? Such a fragment was never queued itself; bi_private is the other. */
static __always_inline u64 whole_bio(struct bio *bio)
{
	struct gendisk *gendisk = BPF_CORE_READ(bio, bi_bdev, bd_disk);
	u64 split;
	if (bpf_core_field_exists(gendisk->bio_split))
		split = (u64)gendisk + bpf_core_field_offset(struct gendisk, bio_split);
	else
		split = (u64)BPF_CORE_READ(gendisk, queue) + bpf_core_field_offset(struct request_queue, bio_split);
	return (u64)BPF_CORE_READ(bio, bi_pool) == split ? (u64)BPF_CORE_READ(bio, bi_private) : 0;
}

static __always_inline struct flight *flight_of(struct control *ctl, u64 bio, struct place **place)
{
	struct place *own = place_of(bio);
	if (own && *(volatile u64 *)&own->bio == bio) {
		*place = own;
		return &own->flight;
	}
	*place = NULL;
	return *(volatile u64 *)&ctl->displaced ? bpf_map_lookup_elem(&flying, &bio) : NULL;
}

/* `place`: where it is; NULL where it is in `flying`, by `key`. */
static __always_inline struct flight *find_flight(struct control *ctl, struct bio *bio, u64 *key, struct place **place)
{
	*key = (u64)bio;
	struct flight *flight = flight_of(ctl, *key, place);
	if (flight)
		return flight;
	*key = whole_bio(bio);
	flight = *key ? flight_of(ctl, *key, place) : NULL;
	return flight && flight->by_queue ? flight : NULL;
}

/*
 * `bytes` of a flight have come to an end; `refused` of them never reached the disk. With an error the disk's content
 * there is not known, while the ring may say it was written: bitmap mode makes user space look.
 */
static __always_inline void land(struct control *ctl, struct bio *bio, u64 key, struct place *place,
				 struct flight *flight, u64 bytes, u64 refused, u32 error)
{
	u32 index = flight->index;
	struct counters *count = bpf_map_lookup_elem(&counters, &index);
	if (error) {
		u64 id = disk_key_of(bio);
		struct disk *disk = bpf_map_lookup_elem(&disks, &id);
		u64 state = *(volatile u64 *)&ctl->state;
#ifndef BITMAP_ONLY
		if (disk && is_refusal(error))
			note_refusing(disk, BPF_CORE_READ(bio, bi_opf), 1);
#endif
		if (disk)
			mark(ctl, disk, state, flight->sector, flight->length);
		else /* another path to the disk (NVMe multipath) */
			__sync_fetch_and_or(&ctl->whole[STATE_SLOT(state)], 1ULL << (index & 63));
		if (count)
			ADD(count->failed, bytes);
		if (state & STATE_DATA)
			to_bitmap_mode(ctl, state, CAUSE_WRITE_FAILED);
	}
	if (count) {
		if (flight->what & FLIGHT_DISCARD) {
			ADD(count->discarded_done, bytes - refused);
			if (refused)
				ADD(count->discarded_refused, refused);
		} else {
			ADD(count->written_done, bytes - refused);
			if (refused)
				ADD(count->written_refused, refused);
		}
	}
	/* One bio's bytes may end on several processors at once; who takes the last ones clears the entry. */
	if (__sync_fetch_and_sub(&flight->left, bytes) != bytes)
		return;
	if (place)
		*(volatile u64 *)&place->bio = 0;
	else if (!bpf_map_delete_elem(&flying, &key)) /* should this fail, left = 0 says that the entry is dead */
		ADD(ctl->displaced, -1);
}

/*
 * A write has ended that was not taken down: it was submitted before the program was attached, the kernel skipped the
 * program just then, a discard joined a request without any event, or, without request events, an upper device sent on
 * the bio that it had got (md linear, RAID 0), of which no queueing is told anew. Nobody has been told yet that it has ended, so
 * what depends on it is not submitted yet: from here on in bitmap mode, with its blocks marked, nothing is lost.
 */
static __always_inline void land_unseen(struct control *ctl, struct bio *bio, u32 bytes, u32 error)
{
	u64 id = disk_key_of(bio);
	struct disk *disk = bpf_map_lookup_elem(&disks, &id);
	if (!disk)
		return;
	ADD(ctl->strangers, 1);
	u32 index = disk->index;
	struct counters *count = bpf_map_lookup_elem(&counters, &index);
	if (!count || !bytes)
		return;
	u64 sector = BPF_CORE_READ(bio, bi_iter.bi_sector);
	u64 state = *(volatile u64 *)&ctl->state;
	u32 opf = BPF_CORE_READ(bio, bi_opf);
	int refused = 0;
#ifdef BITMAP_ONLY
	if (!is_known(opf & OP_MASK)) /* where it wrote is not known: the accounts show it, as a gap */
		return;
#else
	if (!disk->by_request)
		return;
	refused = is_refusal(error) && is_refusing(disk, opf);
#endif
	ADD(count->bios, 1);
	if (!ctl->untracked) { /* else it may have been counted when it was submitted */
		if ((opf & OP_MASK) == REQ_OP(REQ_OP_DISCARD)) {
			ADD(count->discarded, bytes);
			ADD(count->discarded_done, bytes);
		} else {
			ADD(count->written, bytes);
			ADD(count->written_done, bytes);
		}
	}
	if (refused || is_excluded(disk, sector, bytes)) {
		ADD(count->excluded, bytes);
		return;
	}
#ifndef BITMAP_ONLY
	note_refusing(disk, opf, 0);
#endif
	mark(ctl, disk, state, sector, bytes);
	ADD(count->mapped, bytes);
	if (state & STATE_DATA)
		to_bitmap_mode(ctl, state, CAUSE_UNSEEN);
}

struct landing {
	u64 bio;
	u32 left;
	u32 error;
};

/* `left` bytes of a request are still to be told to its bios: how many of them this one takes. */
#ifdef BITMAP_ONLY
__noinline int land_one(u64 address, u32 left, u32 error)
#else
static __always_inline u32 land_one(u64 address, u32 left, u32 error)
#endif
{
	struct bio *bio = (struct bio *)address;
	struct control *ctl = the_control();
	u64 key;
	if (!bio || !ctl)
		return left;
	u64 bytes = BPF_CORE_READ(bio, bi_iter.bi_size);
	if (bytes > left)
		bytes = left;
	struct place *place;
	struct flight *flight = find_flight(ctl, bio, &key, &place);
	if (!flight)
		land_unseen(ctl, bio, bytes, error);
	else if (flight->left) {
		if (bytes > flight->left)
			bytes = flight->left;
#ifndef BITMAP_ONLY
		if (!error && flight->page)
			look_at(bio, flight->page, flight->sector, flight->length);
		else if (!error && flight->what & FLIGHT_CACHED)
			look_for_changes(bio, bytes);
#endif
		land(ctl, bio, key, place, flight, bytes, 0, error);
	}
	return bytes;
}

#ifndef BITMAP_ONLY
static long land_next(u32 i, struct landing *l)
{
	struct bio *bio = (struct bio *)l->bio;
	if (!bio)
		return 1;
	u64 next = (u64)BPF_CORE_READ(bio, bi_next);
	l->left -= land_one((u64)bio, l->left, l->error);
	l->bio = next;
	return l->left ? 0 : 1;
}
#endif

SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_request_done, struct request *request, int error, unsigned int bytes)
{
	u32 op = request->cmd_flags & OP_MASK;
	if (is_command(op)) {
		take_command(request, op);
		return 0;
	}
	if (!(op & 1) || !bytes)
		return 0;
	struct bio *first = request->bio;
	if (!first)
		return 0;
	u64 bio = (u64)BPF_CORE_READ(request, bio);
	struct control *ctl = the_control();
	struct place *place;
	if (!ctl)
		return 0;
	if (!flight_of(ctl, bio, &place)) { /* found where the disk is not watched: another path to a disk of ours */
		/* Most requests of a machine may be for disks that we do not watch: be quick about them. */
		u64 id = disk_key(first->bi_bdev->bd_disk);
		if (!bpf_map_lookup_elem(&disks, &id))
			return 0;
	}
#ifdef BITMAP_ONLY
	for (u32 i = 0; i < MAX_MERGED && bytes && bio; i++) {
		struct bio *this = (struct bio *)bio;
		u64 next = (u64)BPF_CORE_READ(this, bi_next);
		u32 landed = land_one(bio, bytes, error);
		bytes -= landed < bytes ? landed : bytes;
		bio = next;
	}
#else
	struct landing l = { .bio = bio, .left = bytes, .error = error };
	if (!land_next(0, &l)) /* more than one bio */
		bpf_loop(MAX_MERGED, land_next, &l, 0);
#endif
	return 0;
}

SEC("tp_btf/block_bio_complete")
int BPF_PROG(on_bio_done, struct request_queue *queue, struct bio *bio)
{
	u64 key;
	struct control *ctl = the_control();
	if (!(bio->bi_opf & 1) || !ctl)
		return 0;
	struct place *place;
	struct flight *flight = find_flight(ctl, bio, &key, &place);
	if (!flight) /* it was refused before it got a request, or is what fragments were split off */
		return 0;
	u64 left = flight->left;
	u64 size = bio->bi_iter.bi_size;
	if (size > left)
		size = left;
	/* A fragment answers for its own bytes; the bio itself, coming last, for all that is left. */
	u64 bytes = key == (u64)ctx[1] ? left : size;
	u32 error = bio->bi_status;
	if (bytes)
		land(ctl, bio, key, place, flight, bytes, error ? size : 0, error);
	return 0;
}

char _license[] SEC("license") = "GPL";
