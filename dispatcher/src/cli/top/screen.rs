//! The terminal: taken, drawn on, and given back as it was, also when the program panics.

use super::model::Model;
use super::render::render;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::crossterm::{execute, queue};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use std::io::{self, Stdout, Write, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// The terminal is ours now, and is to be given back once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, until it is dropped.
///
/// What is drawn has the size that the terminal was last said to have. ratatui asks for it by itself otherwise, and then for the place of the
/// cursor, whose answer would come among the keys, which another thread reads.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// There is none, or it is gone.
    pub fn take() -> io::Result<Screen> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        enter()?;
        fresh().inspect_err(|_| give_back()).map(|terminal| Screen { terminal })
    }

    /// Takes it again, after it was given back or somebody else had it.
    ///
    /// # Errors
    /// It is gone.
    pub fn retake(&mut self) -> io::Result<()> {
        give_back();
        enter()?;
        self.renew()
    }

    /// Draws everything anew, in the size that there is now.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn renew(&mut self) -> io::Result<()> {
        self.terminal = fresh()?;
        Ok(())
    }

    /// Draws what is other than before. Returned: as by [`render`].
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, model: &Model) -> io::Result<u16> {
        let mut last = 0;
        self.terminal.draw(|frame| last = render(model, frame)).map(|_| last)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Nothing is known of what stands there.
fn fresh() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    let (width, height) = size()?;
    queue!(stdout(), Clear(ClearType::All))?;
    let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
    Terminal::with_options(CrosstermBackend::new(stdout()), TerminalOptions { viewport })
}

/// As it was. Once: what others do with it afterwards is theirs.
pub fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // If it is gone, there is nothing to give back.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout().flush();
    }
}
