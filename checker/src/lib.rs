//! Judges histories: what clients asked and were told, against what they were promised. Pure: values in, violations out,
//! so that runs of real processes and simulations are judged by the same code.
