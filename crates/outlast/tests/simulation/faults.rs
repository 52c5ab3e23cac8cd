//! What goes wrong around Outlast: the weather of the database, and what it refuses.

use std::ops::Range;
use std::time::Duration;

use outlast_testkit::simulated::Temper;
use tokio::time::sleep;

use crate::story::Story;

/// The database is as it likes, until this is aborted.
pub async fn weather(story: Story, seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    loop {
        sleep(millis(&mut dice, 300..6000)).await;
        let lasts = millis(&mut dice, 500..9000);
        // Late requests are what fences are for.
        let kind = if dice.u8(..4) == 0 { 5 } else { dice.u8(..8) };
        let share = 0.1 + dice.f64() * 0.8;
        let name = match kind {
            0 => "down",
            1 => "slow",
            2 => "flapping",
            3 => "read-only",
            4 => "answers lost",
            5 => "requests late",
            6 => "requests lost",
            _ => "conflicts",
        };
        story.trace.note(format_args!("weather: {name} for {lasts:?}"));
        story.database.temper(|temper| match kind {
            0 | 2 => temper.up = false,
            1 => temper.latency = Duration::from_millis(200)..Duration::from_millis(1500),
            3 => temper.read_only = true,
            4 => temper.answer_lost = share,
            5 => temper.late = share,
            6 => temper.request_lost = share,
            _ => temper.conflict = share,
        });
        if kind == 0 && dice.bool() {
            story.database.crash();
        }
        if kind == 2 {
            for _ in 0..dice.u8(4..20) {
                sleep(millis(&mut dice, 20..400)).await;
                story.database.temper(|temper| temper.up = !temper.up);
            }
        } else {
            sleep(lasts).await;
        }
        // Sometimes one thing comes to another.
        if dice.u8(..) < 180 {
            fair(&story);
        }
    }
}

/// The database refuses some records, or everything, for some time, until this is aborted.
pub async fn judge(story: Story, seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    loop {
        sleep(millis(&mut dice, 500..9000)).await;
        let all = dice.u8(..8) == 0;
        let retryable = dice.u8(..3) > 0;
        let records: Vec<String> = (0..dice.u8(1..5)).map(|_| a_record(&mut dice)).collect();
        story.trace.note(format_args!("judge: all {all}, {records:?}, retryable {retryable}"));
        story.database.temper(|temper| {
            temper.refuses_all = all;
            temper.refuses = records.iter().map(|record| (record.clone(), retryable)).collect();
        });
        sleep(millis(&mut dice, 300..7000)).await;
        acquit(&story);
    }
}

fn a_record(dice: &mut fastrand::Rng) -> String {
    if dice.bool() { format!("l{}", dice.u8(..4)) } else { format!("d{}", dice.u8(..14)) }
}

/// Nothing is wrong with the connection any more.
pub fn fair(story: &Story) {
    story.database.temper(|temper| {
        let Temper { refuses, refuses_all, overtakes, .. } = temper.clone();
        *temper = Temper { refuses, refuses_all, overtakes, ..Temper::default() };
    });
}

/// Nothing is refused any more.
pub fn acquit(story: &Story) {
    story.database.temper(|temper| {
        temper.refuses.clear();
        temper.refuses_all = false;
    });
}

pub fn millis(dice: &mut fastrand::Rng, range: Range<u64>) -> Duration {
    Duration::from_millis(dice.u64(range))
}
