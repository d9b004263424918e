//! Characters that are none of a text's, though they may stand in one that others have written.

/// It could do something to a terminal, or show another text than is there: control characters, and those by which Unicode turns the direction of
/// writing, joins, or stands for nothing.
pub fn strange(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
