-- The image itself creates the database mlflow.
CREATE DATABASE prefect;
CREATE DATABASE mlflow_users;
