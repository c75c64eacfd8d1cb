-- Beside the database mlflow, which the image makes itself.
CREATE DATABASE prefect;
CREATE DATABASE mlflow_users;
