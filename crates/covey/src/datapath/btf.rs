//! Where the running kernel keeps a member of one of its structures, by its own description of its types (BTF,
//! Documentation/bpf/btf.rst of the kernel). The filter reads two fields of sockets that way (`ebpf/src/sockets.rs`);
//! they move from version to version. Used by [`Programs`](super::Programs) when it loads the filter.
//!
//! ```text
//!   magic u16, version u8, flags u8, header length u32,
//!   types: offset u32, length u32, strings: offset u32, length u32      offsets count from the header's end
//!   type:   name u32, info u32, size or type u32, then what its kind has; a structure has its members
//!   member: name u32, type u32, offset in bits u32
//! ```

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const STRUCTURE: u32 = 4;

/// The description of the running kernel's types.
pub(super) struct Btf(Vec<u8>);

impl Btf {
    /// The kernel's, or an empty one if it has none to show.
    pub(super) fn of_kernel() -> Self {
        Self(std::fs::read(VMLINUX).unwrap_or_else(|error| {
            tracing::info!(
                "{VMLINUX} cannot be read ({error}), so the filter tells half-open connections less well apart"
            );
            Vec::new()
        }))
    }

    /// The offset in bytes of a structure's member, or `None` if there is no such member, no such structure or
    /// nothing that can be understood.
    pub(super) fn offset_of(&self, structure: &str, member: &str) -> Option<u32> {
        let bytes = self.0.as_slice();
        if bytes.get(..2)? != 0xEB9F_u16.to_ne_bytes() {
            return None;
        }
        let section = |at| {
            let start = (word(bytes, 4)? + word(bytes, at)?) as usize;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (mut types, strings) = (section(8)?, section(16)?);
        let is = |name: u32, wanted: &str| {
            let text = strings.get(name as usize..);
            text.and_then(|text| text.strip_prefix(wanted.as_bytes()))
                .is_some_and(|rest| rest.first() == Some(&0))
        };
        while !types.is_empty() {
            let [name, info] = [word(types, 0)?, word(types, 4)?];
            let (kind, count) = (info >> 24 & 0x1F, (info & 0xFFFF) as usize);
            let (details, rest) = types.get(12..)?.split_at_checked(details(kind, count)?)?;
            if kind == STRUCTURE && is(name, structure) {
                let found = details
                    .chunks_exact(12)
                    .find(|entry| word(entry, 0).is_some_and(|name| is(name, member)))?;
                // With the flag set, the upper byte is the width of a bit field; none of ours is one.
                let bits = word(found, 8)?;
                return (bits % 8 == 0 && bits >> 24 == 0).then_some(bits / 8);
            }
            types = rest;
        }
        None
    }
}

/// Bytes that follow the head of a type of this kind with so many members, or `None` for a kind of the future.
fn details(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, names, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Enumerations, function prototypes.
        6 | 13 => 8 * count,
        // Structures, unions, sections, 64-bit enumerations.
        STRUCTURE | 5 | 15 | 19 => 12 * count,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An int, a structure `pair` { `first`: int, `second`: int } and a structure `odd` { `bit`: 1 bit at 9 }.
    fn example() -> Vec<u8> {
        let strings = b"\0int\0pair\0first\0second\0odd\0bit\0";
        let name = |wanted: &str| {
            let at = strings
                .windows(wanted.len() + 1)
                .position(|part| part == [wanted.as_bytes(), b"\0"].concat());
            at.expect("the name is there") as u32
        };
        let types = [
            [name("int"), 1 << 24, 4].as_slice(),
            &[32],
            &[name("pair"), STRUCTURE << 24 | 2, 8],
            &[name("first"), 1, 0],
            &[name("second"), 1, 32],
            &[name("odd"), 1 << 31 | STRUCTURE << 24 | 1, 4],
            &[name("bit"), 1, 1 << 24 | 9],
        ]
        .concat();
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let header = [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ];
        let mut bytes = 0xEB9F_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(header.into_iter().flat_map(u32::to_ne_bytes));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_member_is_found_by_name() {
        let btf = Btf(example());
        assert_eq!(btf.offset_of("pair", "first"), Some(0));
        assert_eq!(btf.offset_of("pair", "second"), Some(4));
        for (structure, member) in [
            ("pair", "third"),
            ("pair", "sec"),
            ("trio", "first"),
            ("int", "first"),
            ("odd", "bit"),
        ] {
            assert_eq!(
                btf.offset_of(structure, member),
                None,
                "{structure}.{member}"
            );
        }
    }

    #[test]
    fn damage_is_no_panic() {
        let whole = example();
        for length in 0..whole.len() {
            Btf(whole[..length].to_vec()).offset_of("pair", "second");
        }
        for at in 0..whole.len() {
            for value in [0, 0x1F, 0x80, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                Btf(bytes).offset_of("pair", "second");
            }
        }
    }
}
