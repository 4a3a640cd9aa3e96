//! Access to the bytes of a frame in the kernel. All unsafe code that touches frames is here.
//!
//! The verifier accepts a load only behind a comparison of that very address with the end of the frame, so
//! [`Bytes::at`] does both in one place.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_skb_load_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::mem::MaybeUninit;
use covey_filter::{Changes, Correction, MacBytes, Packet};

/// The linear part of a frame, where the headers are.
pub(crate) struct Bytes {
    start: usize,
    end: usize,
}

impl Bytes {
    #[inline(always)]
    pub(crate) fn of_xdp(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    #[inline(always)]
    pub(crate) fn of_tc(ctx: &TcContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    #[inline(always)]
    pub(crate) fn destination(&self) -> Option<MacBytes> {
        self.read(0)
    }

    /// Writes the destination MAC. XDP only: tc would have to make the frame writable first.
    #[inline(always)]
    pub(crate) fn set_destination(&mut self, mac: MacBytes) {
        let [a, b, c, d, e, f] = mac;
        if let Some(place) = self.at::<MacBytes>(0) {
            // In two words, because a copy of six bytes becomes a call.
            // SAFETY: `at` has checked the bounds, and the frame is this program's alone while it runs.
            unsafe {
                place
                    .cast::<u32>()
                    .write_unaligned(u32::from_ne_bytes([a, b, c, d]));
                place
                    .byte_add(4)
                    .cast::<u16>()
                    .write_unaligned(u16::from_ne_bytes([e, f]));
            }
        }
    }

    /// Writes the EtherType. XDP only, as above.
    #[inline(always)]
    pub(crate) fn set_ether_type(&mut self, kind: u16) {
        if let Some(place) = self.at::<u16>(12) {
            // SAFETY: as in `set_destination`.
            unsafe { place.write_unaligned(kind.to_be()) };
        }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let place = self.start + offset;
        (place + size_of::<T>() <= self.end).then_some(place as *mut T)
    }
}

impl Packet for Bytes {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: `at` has checked the bounds; any bytes are a value of the type.
        self.at::<[u8; N]>(offset)
            .map(|place| unsafe { place.read_unaligned() })
    }
}

/// A frame that leaves. The kernel's own have their headers in the linear part; what comes from a packet socket need not.
pub(crate) struct Skb<'a> {
    ctx: &'a TcContext,
    linear: Bytes,
}

impl<'a> Skb<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        Self {
            ctx,
            linear: Bytes::of_tc(ctx),
        }
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.linear.read(offset).or_else(|| {
            let mut bytes = MaybeUninit::<[u8; N]>::uninit();
            let place = bytes.as_mut_ptr().cast();
            // SAFETY: the helper fills all `N` bytes, or says that it did not.
            unsafe {
                let result = bpf_skb_load_bytes(self.ctx.as_ptr(), offset as u32, place, N as u32);
                (result == 0).then(|| bytes.assume_init())
            }
        })
    }
}

/// To whom the driver thinks the frame is addressed: a PACKET_ constant of linux/if_packet.h.
#[inline(always)]
pub(crate) fn kind(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).pkt_type }
}

/// A MAC on the stack, where words must be aligned, and in whole words, as bpf_csum_diff wants it: zeros change
/// no sum.
#[repr(C, align(8))]
struct Padded {
    mac: MacBytes,
    zeros: [u8; 2],
}

impl Padded {
    const SIZE: u32 = size_of::<Self>() as u32;

    #[inline(always)]
    const fn new(mac: MacBytes) -> Self {
        Self { mac, zeros: [0; 2] }
    }

    #[inline(always)]
    fn words(&mut self) -> *mut u32 {
        core::ptr::from_mut(self).cast()
    }
}

/// Writes changes into an outgoing frame.
#[inline(always)]
pub(crate) fn change(ctx: &TcContext, changes: &Changes) -> Result<(), i64> {
    ctx.store(6, &Padded::new(changes.source).mac, 0)?;
    match &changes.advertised {
        Some(correction) => correct(ctx, correction),
        None => Ok(()),
    }
}

/// Writes a correction into an outgoing frame, and repairs the checksum over it. (In all messages the MAC lies at
/// an even offset from where the checksum starts, so the words add up alike.)
#[inline(always)]
fn correct(ctx: &TcContext, correction: &Correction) -> Result<(), i64> {
    let (mut old, mut new) = (Padded::new(correction.old), Padded::new(correction.new));
    ctx.store(correction.at, &new.mac, 0)?;
    let Some(checksum) = correction.checksum else {
        return Ok(());
    };
    // SAFETY: both values are as large as is said.
    let difference =
        unsafe { bpf_csum_diff(old.words(), Padded::SIZE, new.words(), Padded::SIZE, 0) };
    ctx.l4_csum_replace(checksum, 0, difference as u64, 0)
}
