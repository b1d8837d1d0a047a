//! Publishes ScyllaDB outbox tables to Kafka.
