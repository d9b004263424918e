//! The head of a message as it comes, in pieces of any size: line by line, in bounded memory.

use crate::pack::{Pack, Packer, Unpacker, Unreadable, packed_words};
use arrayvec::ArrayVec;

/// Longest head, bytes; servers send a tenth of that.
const LONGEST: u32 = 64 * 1024;
/// Empty lines that may stand before a message (RFC 9112 section 2.2).
const EMPTY_LINES: u8 = 4;

/// What has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part<'a> {
    /// The first line.
    Start(&'a [u8]),
    /// A field's line, or so much of it as there is room for; lines that continue it are joined to it by a blank.
    Field(&'a [u8]),
    /// The empty line.
    End,
    /// It is no head, or none that everybody reads alike.
    Broken,
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// The first line.
    #[default]
    Start,
    /// A field, or the empty line.
    Fields,
    /// A field's line has ended: the next byte says whether the next one continues it.
    Ended,
    Broken,
}

/// Reads one head after the other; lines longer than `N` bytes are cut.
#[derive(Clone, Debug)]
pub(super) struct Head<const N: usize> {
    line: ArrayVec<u8, N>,
    stage: Stage,
    /// The line that is in hand is longer than what is kept of it.
    cut: bool,
    folded: bool,
    /// What is in hand was told, and the next byte begins another line.
    told: bool,
    /// The last byte was a carriage return.
    cr: bool,
    /// Bytes of the line as it stands there, without those before it was continued.
    physical: u32,
    total: u32,
    empty: u8,
    /// Some line of this head ended without a carriage return, was continued by the next, or has a control character.
    plain: bool,
}

impl<const N: usize> Default for Head<N> {
    fn default() -> Self {
        Head {
            line: ArrayVec::new(),
            stage: Stage::Start,
            cut: false,
            folded: false,
            told: false,
            cr: false,
            physical: 0,
            total: 0,
            empty: 0,
            plain: true,
        }
    }
}

impl<const N: usize> Head<N> {
    /// A head begins. What lies in the line's memory stays there.
    pub fn restart(&mut self) {
        self.line.clear();
        let Head { line: _, stage, cut, folded, told, cr, physical, total, empty, plain } = self;
        (*stage, *cut, *folded, *told, *cr) = (Stage::Start, false, false, false, false);
        (*physical, *total, *empty, *plain) = (0, 0, 0, true);
    }

    /// Writes it.
    pub fn pack(&self, to: &mut Packer) {
        let Head { line, stage, cut, folded, told, cr, physical, total, empty, plain } = self;
        to.block(line);
        (*stage, (*cut, *folded)).pack(to);
        ((*told, *cr), *plain).pack(to);
        ((*physical, *total), *empty).pack(to);
    }

    /// The inverse, where it lies.
    pub fn unpack(&mut self, from: &mut Unpacker<'_>) -> Result<(), Unreadable> {
        from.block_into(&mut self.line)?;
        (self.stage, (self.cut, self.folded)) = Pack::unpack(from)?;
        ((self.told, self.cr), self.plain) = Pack::unpack(from)?;
        ((self.physical, self.total), self.empty) = Pack::unpack(from)?;
        if self.empty > EMPTY_LINES + 1 {
            return Err(Unreadable::Impossible("so many empty lines"));
        }
        Ok(())
    }

    /// Every line so far ended with CR LF, stood alone and has no control characters: everybody reads them alike.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// The line told last is not whole.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// The line told last was continued.
    pub fn is_folded(&self) -> bool {
        self.folded
    }

    /// The next part, of which `bytes` gives up what was read; `None` when more has to come.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Part<'_>> {
        if self.told {
            self.line.clear();
            (self.cut, self.folded, self.told) = (false, false, false);
        }
        loop {
            if self.stage == Stage::Broken || self.total > LONGEST {
                self.stage = Stage::Broken;
                return Some(Part::Broken);
            }
            if self.stage == Stage::Ended {
                let next = *bytes.first()?;
                self.stage = Stage::Fields;
                if next == b' ' || next == b'\t' {
                    (self.folded, self.plain) = (true, false);
                    self.cut |= self.line.try_push(b' ').is_err();
                } else {
                    self.told = true;
                    return Some(Part::Field(&self.line));
                }
            }
            if bytes.is_empty() {
                return None;
            }
            if !self.line_ends(bytes) {
                continue;
            }
            let empty = core::mem::take(&mut self.physical) == 0;
            match self.stage {
                Stage::Start if empty => {
                    self.empty += 1;
                    if self.empty > EMPTY_LINES {
                        self.stage = Stage::Broken;
                    }
                }
                Stage::Start => {
                    (self.stage, self.told) = (Stage::Fields, true);
                    return Some(Part::Start(&self.line));
                }
                _ if empty => {
                    self.stage = Stage::Start;
                    (self.told, self.total, self.empty) = (true, 0, 0);
                    return Some(Part::End);
                }
                _ => self.stage = Stage::Ended,
            }
        }
    }

    /// Takes in what there is of a line; true when it has ended.
    fn line_ends(&mut self, bytes: &mut &[u8]) -> bool {
        let end = bytes.iter().position(|&b| b == b'\n');
        let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.total = self.total.saturating_add(part.len() as u32 + 1);
        // A carriage return is the line's end, or has no business there (RFC 9112 section 2.2).
        let (cr, part) = match part.split_last() {
            Some((b'\r', before)) => (true, before),
            _ => (false, part),
        };
        let before = core::mem::replace(&mut self.cr, cr && end.is_none());
        if before && end != Some(0) || part.iter().any(|&b| b == b'\r' || b == 0) {
            self.stage = Stage::Broken;
            return false;
        }
        if part.iter().any(|&b| b < b' ' && b != b'\t' || b == 0x7f) {
            self.plain = false;
        }
        self.physical = self.physical.saturating_add(part.len() as u32);
        let room = self.line.remaining_capacity().min(part.len());
        self.cut |= room < part.len();
        // As much as there is room for.
        _ = self.line.try_extend_from_slice(&part[..room]);
        let ended = end.is_some();
        if ended {
            self.plain &= cr || before;
            *bytes = &rest[1..];
        } else {
            *bytes = &[];
        }
        ended
    }
}

packed_words!(Stage { Start = 0, Fields = 1, Ended = 2, Broken = 3 });

#[cfg(test)]
mod tests {
    use super::*;

    /// All parts, with the stream given in pieces that end at `cuts`.
    fn parts<const N: usize>(stream: &[u8], piece: usize) -> (Vec<String>, bool) {
        let mut head = Head::<N>::default();
        let (mut all, mut plain) = (Vec::new(), true);
        for mut bytes in stream.chunks(piece) {
            while let Some(part) = head.next(&mut bytes) {
                let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
                let said = match part {
                    Part::Start(line) => format!("start {}", text(line)),
                    Part::Field(line) => format!("field {}", text(line)),
                    Part::End => "end".into(),
                    Part::Broken => "broken".into(),
                };
                let over = said == "broken";
                all.push(said);
                plain &= head.is_plain();
                if over {
                    return (all, plain);
                }
            }
        }
        (all, plain)
    }

    #[track_caller]
    fn reads(stream: &[u8], want: &[&str], plain: bool) {
        for piece in 1..=stream.len() {
            let (all, was_plain) = parts::<40>(stream, piece);
            assert_eq!(
                (all.iter().map(String::as_str).collect::<Vec<_>>(), was_plain),
                (want.to_vec(), plain),
                "{piece}"
            );
        }
    }

    #[test]
    fn a_head_in_pieces_of_any_size_is_the_same_head() {
        reads(
            b"HTTP/1.1 200 OK\r\nA: b\r\nC:\r\n\r\n",
            &["start HTTP/1.1 200 OK", "field A: b", "field C:", "end"],
            true,
        );
        reads(b"\r\n\r\nGET / HTTP/1.0\r\n\r\nGET", &["start GET / HTTP/1.0", "end"], true);
    }

    #[test]
    fn lines_that_continue_are_joined_and_lines_that_end_oddly_are_told_as_such() {
        reads(b"x\r\nA: b\r\n c\r\n\td\r\nE: f\r\n\r\n", &["start x", "field A: b  c \td", "field E: f", "end"], false);
        reads(b"x\nA: b\n\n", &["start x", "field A: b", "end"], false);
        reads(b"x\r\nA: \x01b\r\n\r\n", &["start x", "field A: \u{1}b", "end"], false);
        // A line of blanks continues the one before, and is no empty line.
        reads(b"x\r\nA: b\r\n \r\nC: d\r\n\r\n", &["start x", "field A: b  ", "field C: d", "end"], false);
    }

    #[test]
    fn a_carriage_return_alone_and_a_zero_are_no_part_of_a_head() {
        reads(b"x\r\nA: b\rc\r\n\r\n", &["start x", "broken"], true);
        reads(b"x\r\r\nA: b", &["broken"], true);
        reads(b"x\r\nA: \0\r\n\r\n", &["start x", "broken"], true);
        reads(b"\r\n\r\n\r\n\r\n\r\nGET", &["broken"], true);
    }

    #[test]
    fn a_long_line_is_cut_and_a_head_without_end_is_given_up() {
        let long = [b"x\r\nA: ".as_slice(), &[b'b'; 100], b"\r\nC: d\r\n\r\n"].concat();
        let cut = format!("field A: {}", "b".repeat(37));
        reads(&long, &["start x", &cut, "field C: d", "end"], true);
        let endless = [b"x\r\n".as_slice(), &b"A: b\r\n".repeat(20_000)].concat();
        let (all, _) = parts::<40>(&endless, 1460);
        assert_eq!(all.last().unwrap(), "broken");
        assert!(all.len() < 12_000);
        let one_line = vec![b'x'; 100_000];
        assert_eq!(parts::<40>(&one_line, 7).0, ["broken"]);
    }
}
