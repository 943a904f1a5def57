-- Beside the database of commit locks, which the server makes by itself.
CREATE DATABASE airflow;
CREATE DATABASE mlflow;
