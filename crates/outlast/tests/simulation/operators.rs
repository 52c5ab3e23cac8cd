//! Operators: they pause and resume, give up writes, and take dead letters back.

use std::time::Duration;

use outlast::status::{DeadFilter, DeadLetter};
use outlast::{Error, Fate, Outlast};
use outlast_testkit::history::Told;
use outlast_testkit::simulated::tokens_of;
use tokio::time::sleep;

use crate::story::Story;

/// Works until it is aborted.
pub async fn run(story: Story, outlast: Outlast, seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut late = 0;
    loop {
        sleep(Duration::from_millis(dice.u64(200..5000))).await;
        let former =
            std::mem::replace(&mut late, story.database.fired().get("arrived late").copied().unwrap_or(0));
        match dice.u8(..11) {
            // A transaction is under way that nobody waits for any more: what it would apply is given up meanwhile.
            0..=8 if late > former => pause(&story, &outlast, &mut dice).await,
            0..=2 => pause(&story, &outlast, &mut dice).await,
            3..=6 => cancel(&story, &outlast, &mut dice).await,
            7 => retry(&story, &outlast, &mut dice).await,
            8 => discard(&story, &outlast, &mut dice).await,
            9 => outlast.throttle(dice.bool().then(|| dice.u64(5..200))),
            _ => outlast.throttle(None),
        }
        look(&story, &outlast);
    }
}

/// The books balance whenever somebody looks.
pub fn look(story: &Story, outlast: &Outlast) {
    let status = outlast.status();
    if !status.accounting_holds {
        story.violation(format!("the books do not balance: {:?}", status.accounting));
    }
    if status.queue.lanes > 1 {
        story.happened("several lanes");
    }
}

async fn pause(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    let at_most = Duration::from_millis(dice.u64(1000..12_000));
    let limited = dice.bool();
    if outlast.pause(limited.then_some(at_most)).await.is_err() {
        return;
    }
    story.trace.note(format_args!("operator: paused for {at_most:?}"));
    story.happened("paused");
    // What was under way when it was paused may be given up meanwhile, and may still arrive.
    let pause = at_most / 4;
    sleep(pause).await;
    for _ in 0..3 {
        cancel(story, outlast, dice).await;
        sleep(pause).await;
    }
    let _ = outlast.resume(None).await;
}

async fn cancel(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    // The oldest, mostly: what may be under way.
    let first = if dice.u8(..4) == 0 { 20 } else { 3 };
    let Ok(waiting) = outlast.queue_list(None, first).await else { return };
    let Some(write) = dice.choice(&waiting) else { return };
    let tokens = tokens_of(&write.operations);
    story.facts().perhaps_discarded.extend(tokens.iter().cloned());
    story.trace.note(format_args!("operator: cancel {} {}", write.id, tokens.join(" ")));
    match outlast.cancel(write.id).await {
        Ok(receipt) if receipt.status == Fate::Discarded => {
            story.trace.note(format_args!("operator: {} is cancelled", write.id));
            story.happened("cancelled");
            story.facts().discarded.extend(tokens);
        }
        Ok(receipt) => story.violation(format!("{} was cancelled, and is {:?}", write.id, receipt.status)),
        Err(error) => story.trace.note(format_args!("operator: {} is not cancelled: {error}", write.id)),
    }
}

async fn a_letter(outlast: &Outlast, dice: &mut fastrand::Rng) -> Option<DeadLetter> {
    let filter = DeadFilter { limit: 50, ..DeadFilter::default() };
    dice.choice(outlast.dead_letters(&filter).await.ok()?.letters)
}

async fn retry(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    let Some(letter) = a_letter(outlast, dice).await else { return };
    let tokens = tokens_of(&letter.operations);
    story.trace.note(format_args!("operator: retry {} {}", letter.id, tokens.join(" ")));
    // Its place is the end of the order now, if it is retried.
    story.facts().retried.extend(tokens.iter().cloned());
    for token in &tokens {
        story.history.end(token.parse().unwrap(), Told::Unknown);
    }
    match outlast.retry_dead_letter(letter.id).await {
        Ok(()) => story.happened("dead letter retried"),
        Err(error) => story.trace.note(format_args!("operator: {} is not retried: {error}", letter.id)),
    }
}

async fn discard(story: &Story, outlast: &Outlast, dice: &mut fastrand::Rng) {
    let Some(letter) = a_letter(outlast, dice).await else { return };
    let tokens = tokens_of(&letter.operations);
    story.facts().perhaps_discarded.extend(tokens.iter().cloned());
    story.trace.note(format_args!("operator: discard {} {}", letter.id, tokens.join(" ")));
    match outlast.discard_dead_letter(letter.id).await {
        Ok(()) => {
            story.happened("dead letter discarded");
            story.facts().discarded.extend(tokens);
        }
        Err(Error::NotFound { .. }) => {}
        Err(error) => story.trace.note(format_args!("operator: {} is not discarded: {error}", letter.id)),
    }
}
