//! Throughput and latency of sends, closed loop and pipelined.
