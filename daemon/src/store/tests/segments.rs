//! The log's segments against a plain list, and what removing them writes.

use std::collections::VecDeque;

use super::*;
use crate::store::writer::LOG_TABLES;

/// xorshift64*: the same steps in every run.
struct Steps(u64);

impl Steps {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

/// How many tables hold rows.
fn in_use(s: &Driven) -> usize {
    LOG_TABLES.iter().filter(|table| s.count(&format!("SELECT count(*) FROM {table}")) > 0).count()
}

/// The file against the model, which begins at entry `begin`.
fn agrees(s: &Driven, begin: u64, model: &VecDeque<LogRow>) {
    let end = begin + model.len() as u64;
    let read = s.store.read_log(begin..end + 9, usize::MAX).unwrap();
    assert_eq!(read.iter().collect::<Vec<_>>(), model.iter().collect::<Vec<_>>());
    assert_eq!(s.count("SELECT count(*) FROM log"), model.len() as u64);
    let stored = "SELECT coalesce(sum(octet_length(change) + coalesce(octet_length(secrets), 0) + 96), 0) FROM log";
    assert_eq!(s.store.log_bytes(), s.count(stored));
}

#[test]
fn whatever_is_appended_cut_and_purged_the_segments_hold_the_log() {
    for seed in 1..=12 {
        let mut steps = Steps(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let fixture = Fixture::new();
        let mut s = fixture.open();
        let (mut begin, mut term, mut most) = (0, 1, 0);
        let mut model: VecDeque<LogRow> = VecDeque::new();
        for _ in 0..250 {
            let end = begin + model.len() as u64;
            match steps.below(10) {
                0..=5 => {
                    let rows: Vec<LogRow> = (end..end + 1 + steps.below(6)).map(|i| blank(term, i)).collect();
                    model.extend(rows.clone());
                    s.append(rows);
                }
                6 if !model.is_empty() => {
                    let keep = begin + steps.below(model.len() as u64);
                    // Sometimes all of it, sometimes by an append that overwrites.
                    model.truncate(usize::try_from(keep - begin).unwrap() + 1);
                    term += 1;
                    if steps.below(2) == 0 {
                        s.run(|done| Job::Truncate { keep_through: Some(keep), done }).unwrap();
                    } else {
                        model.push_back(blank(term, keep + 1));
                        s.append(vec![blank(term, keep + 1)]);
                    }
                }
                7..=8 if !model.is_empty() => {
                    let through = begin + steps.below(model.len() as u64);
                    let through = if steps.below(2) == 0 { s.store.whole_segments(begin, through) } else { through };
                    let gone: Vec<LogRow> = model.drain(..=usize::try_from(through - begin).unwrap()).collect();
                    s.run(|done| Job::Purge { through: gone.last().unwrap().id, done }).unwrap();
                    begin = through + 1;
                }
                9 => {
                    drop(s);
                    s = fixture.open();
                }
                _ => {}
            }
            most = most.max(in_use(&s));
            agrees(&s, begin, &model);
        }
        assert!(most > 3, "seed {seed}: never more than {most} segments");
    }
}

#[test]
fn segments_take_turns_and_the_newest_goes_on_when_all_are_full() {
    let mut s = Fixture::new().open();
    // A blank entry takes 108 bytes; a segment is full with 500.
    for index in 0..200 {
        s.append(vec![blank(1, index)]);
    }
    assert_eq!(in_use(&s), LOG_TABLES.len());
    assert_eq!(s.count("SELECT count(*) FROM log_0"), 5);
    assert_eq!(s.count("SELECT count(*) FROM log_7"), 200 - 7 * 5);
    assert_eq!(
        (s.store.whole_segments(0, 33), s.store.whole_segments(0, 34), s.store.whole_segments(0, 150)),
        (29, 34, 34)
    );
    assert_eq!((s.store.whole_segments(0, 3), s.store.whole_segments(34, 150)), (3, 150), "no segment ends there");
    s.run(|done| Job::Purge { through: id(1, 9), done }).unwrap();
    assert_eq!(in_use(&s), LOG_TABLES.len() - 2);
    s.append(vec![blank(1, 200)]);
    assert_eq!(s.query::<i64>("SELECT log_index FROM log_0"), 200, "the oldest table is the next one");
    // A segment that is purged in part.
    s.run(|done| Job::Purge { through: id(1, 11), done }).unwrap();
    assert_eq!(s.query::<i64>("SELECT min(log_index) FROM log"), 12);
    // Behind a cut the log goes on in the segment that is the newest then.
    s.run(|done| Job::Truncate { keep_through: Some(13), done }).unwrap();
    assert_eq!(in_use(&s), 1);
    s.append((14..30).map(|index| blank(2, index)).collect());
    assert_eq!(s.count("SELECT count(*) FROM log_2"), 18);
}

#[test]
fn a_long_segment_is_emptied_piece_by_piece() {
    let mut s = Fixture::new().open();
    let body = "x".repeat(16_000);
    let rows = (0..1_500)
        .map(|i| change(i, Change::Send { user: 1, to: "b".into(), body: body.clone(), key: i.to_string() }, None));
    s.append(rows.collect());
    s.append((1_500..1_510).map(|i| blank(1, i)).collect());
    assert_eq!(in_use(&s), 2);
    let (done, _answer) = done();
    now(s.store.purge(id(1, 1_499), done)).unwrap();
    let job = now(s.writer.recv()).unwrap();
    s.writer.accept(job).unwrap();
    s.writer.piece(Piece::Log).unwrap();
    let mut left = vec![s.count("SELECT count(*) FROM log_0")];
    while s.writer.piece(Piece::Cleanup).unwrap() {
        left.push(s.count("SELECT count(*) FROM log_0"));
    }
    // 24 MB: 1,000 rows first, then what is short enough at once; the last look finds nothing.
    assert_eq!(left, [1_500, 500, 0, 0]);
    assert_eq!(s.log(0..2_000), (1_500..1_510).collect::<Vec<u64>>());
}

/// The reason for segments. Deleting the rows writes about as much as they take.
#[test]
fn emptying_a_segment_writes_next_to_nothing() {
    let mut s = Fixture::new().open();
    let body = "x".repeat(1_000);
    for round in 0..3 {
        let rows = (round * 1_000..round * 1_000 + 1_000)
            .map(|i| change(i, Change::Send { user: 1, to: "b".into(), body: body.clone(), key: i.to_string() }, None));
        s.append(rows.collect());
    }
    let counted = |s: &mut Driven, through| {
        let (done, _answer) = done();
        now(s.store.purge(id(1, through), done)).unwrap();
        let job = now(s.writer.recv()).unwrap();
        s.writer.accept(job).unwrap();
        s.writer.piece(Piece::Log).unwrap();
        let before = s.writer.wal_frames();
        while s.writer.piece(Piece::Cleanup).unwrap() {}
        s.writer.wal_frames() - before
    };
    let whole = counted(&mut s, 999);
    let half = counted(&mut s, 1_499);
    assert!(whole < 20, "{whole} frames for 1,000 rows of a segment of their own");
    assert!(half > 60, "{half} frames for 500 rows of a larger one: this test measures nothing");
}
